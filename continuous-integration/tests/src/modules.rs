//! Reads the module graph of a crate from its sources: an edge for each module that uses another.
//!
//! The nodes are the children of the crate root and the root itself ([`ROOT`]). A nested module counts
//! as its ancestor below the root. The children of a module that only declares modules are nodes in its
//! place. Tests are left out, because they may use every module.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use syn::visit::{self, Visit};

/// Name of the root module in a graph.
pub const ROOT: &str = "lib";

/// Modules that each module uses, by the module's name.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// Returns the graph of the crate whose sources are in `src`.
///
/// # Errors
///
/// An error if a file cannot be read or is not valid Rust.
pub fn graph(src: &Path) -> io::Result<Graph> {
    let root = parsed(&src.join("lib.rs"))?;
    let mut files = Vec::new();
    collect(src, &root, &[], &mut files)?;
    let folders: BTreeSet<_> = files
        .iter()
        .filter(|(module, file)| module.len() == 1 && only_declares_modules(file))
        .map(|(module, _)| module[0].clone())
        .collect();
    let node = |path: &[String]| match path {
        [folder, child, ..] if folders.contains(folder) => format!("{folder}::{child}"),
        [first, ..] => first.clone(),
        [] => ROOT.to_owned(),
    };
    let modules: BTreeSet<_> = files.iter().map(|(module, _)| node(module)).collect();
    let exports = exports(&root, &modules, node);
    let mut graph: Graph = modules.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for (module, file) in files.iter().chain([&(Vec::new(), root)]) {
        let mut uses = Uses { module: module.clone(), found: Vec::new() };
        uses.visit_file(file);
        let name = node(module);
        let targets = uses.found.iter().filter_map(|path| {
            let first = path.first()?;
            match modules.get(&node(path)).or_else(|| exports.get(first)) {
                Some(module) => Some(module.clone()),
                None if module.is_empty() => None, // an item of the root, used in the root
                None => Some(ROOT.to_owned()),
            }
        });
        let targets: BTreeSet<_> = targets.filter(|target| *target != name).collect();
        graph.entry(name).or_default().extend(targets);
    }
    Ok(graph)
}

/// Returns the cycles of a graph: groups of modules in which each module reaches the others.
#[must_use]
pub fn cycles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<_, _> =
        graph.keys().map(|module| (module.clone(), reachable(graph, module))).collect();
    let mut found = BTreeSet::new();
    for (module, others) in &reach {
        let mut group: BTreeSet<_> = others
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(module)))
            .cloned()
            .collect();
        if !group.is_empty() {
            group.insert(module.clone());
            if group.len() > 1 {
                found.insert(group);
            }
        }
    }
    found.into_iter().collect()
}

/// Returns the graph in Mermaid's syntax (<https://mermaid.js.org/syntax/flowchart.html>).
#[must_use]
pub fn mermaid(graph: &Graph) -> String {
    let edge = |from: &String, to: &String| format!("  {from} --> {to}\n");
    let edges = graph.iter().flat_map(|(from, to)| to.iter().map(move |to| edge(from, to)));
    format!("flowchart LR\n{}", edges.collect::<String>())
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = next.pop() {
        for target in graph.get(&module).into_iter().flatten() {
            if seen.insert(target.clone()) {
                next.push(target.clone());
            }
        }
    }
    seen
}

fn parsed(file: &Path) -> io::Result<syn::File> {
    let text = fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    syn::parse_file(&text).map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
}

/// Adds the parsed files of the modules that `file` declares, and of their descendants, to `files`.
fn collect(
    folder: &Path,
    file: &syn::File,
    module: &[String],
    files: &mut Vec<(Vec<String>, syn::File)>,
) -> io::Result<()> {
    for item in &file.items {
        let syn::Item::Mod(declared) = item else { continue };
        if declared.content.is_some() || is_test(&declared.attrs) {
            continue;
        }
        let name = declared.ident.to_string();
        let below = folder.join(&name);
        let child = [module, std::slice::from_ref(&name)].concat();
        let beside = folder.join(format!("{name}.rs"));
        let parsed = parsed(&if beside.exists() { beside } else { below.join("mod.rs") })?;
        collect(&below, &parsed, &child, files)?;
        files.push((child, parsed));
    }
    Ok(())
}

/// Whether a file has no item but declarations of modules.
fn only_declares_modules(file: &syn::File) -> bool {
    let is_declaration =
        |item: &syn::Item| matches!(item, syn::Item::Mod(declared) if declared.content.is_none());
    !file.items.is_empty() && file.items.iter().all(is_declaration)
}

/// Returns the module that each re-exported name of the root comes from.
fn exports(
    root: &syn::File,
    modules: &BTreeSet<String>,
    node: impl Fn(&[String]) -> String,
) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for item in &root.items {
        let syn::Item::Use(item) = item else { continue };
        let mut paths = Vec::new();
        leaves(&item.tree, &[], &mut paths);
        for path in paths {
            let path: Vec<_> =
                path.into_iter().filter(|part| part != "crate" && part != "self").collect();
            if let [_, .., name] = path.as_slice()
                && modules.contains(&node(&path))
            {
                exports.insert(name.clone(), node(&path));
            }
        }
    }
    exports
}

/// Adds every path of a `use` tree to `paths`.
fn leaves(tree: &syn::UseTree, before: &[String], paths: &mut Vec<Vec<String>>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), paths),
        syn::UseTree::Name(name) => paths.push(with(&name.ident)),
        syn::UseTree::Rename(rename) => paths.push(with(&rename.ident)),
        syn::UseTree::Glob(_) => paths.push(before.to_vec()),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|tree| leaves(tree, before, paths));
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// Collects the paths of one module relative to the crate root: paths that begin with `crate`,
/// `super` or `self`, and in the root also paths that begin with a module's name.
struct Uses {
    /// Path of the visited module, including inline modules.
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Uses {
    fn add(&mut self, path: &[String]) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let path = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("super") if supers <= self.module.len() => {
                [&self.module[..self.module.len() - supers], &path[supers..]].concat()
            }
            Some("self") => [&self.module[..], &path[1..]].concat(),
            Some(_) if self.module.is_empty() => path.to_vec(),
            _ => return,
        };
        self.found.push(path);
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut paths = Vec::new();
        leaves(&item.tree, &[], &mut paths);
        for path in &paths {
            self.add(path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if parts.len() > 1 {
            self.add(&parts);
        }
        visit::visit_path(self, path);
    }
}
