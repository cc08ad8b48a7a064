//! Fenced code blocks of a Markdown page.

/// A fenced code block and its position.
pub(crate) struct Block {
    /// Line of the opening fence, counted from 1.
    pub(crate) line: usize,
    /// Info string after the fence: `sh`, `sh not-run`, `yaml`, `text` …
    pub(crate) info: String,
    /// Lines between the fences.
    pub(crate) text: String,
}

/// Returns the fenced blocks of a page, in order. A fence without an end reaches to the end of the
/// page.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (index, line) in page.lines().enumerate() {
        match (open.as_mut(), line.strip_prefix("```")) {
            (None, Some(info)) => {
                let info = info.trim().to_owned();
                open = Some(Block { line: index + 1, info, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    blocks.extend(open);
    blocks
}
