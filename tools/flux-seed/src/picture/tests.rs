mod drawing;
mod world;

use std::collections::BTreeSet;

use documents::ResultForm;
use drawing::{Box, boxes_of_mermaid, boxes_of_svg};
use proptest::prelude::*;
use world::{Fault, check, digest, picture, world};

use super::*;
use crate::step::Step;
use crate::verify::{BrokenLink, CheckResult, Proof};

fn all_faults() -> impl Iterator<Item = BTreeSet<Fault>> {
    (0..1_u32 << Fault::ALL.len()).map(|bits| {
        let chosen = |(index, fault): (usize, Fault)| (bits >> index & 1 == 1).then_some(fault);
        Fault::ALL.into_iter().enumerate().filter_map(chosen).collect()
    })
}

/// Returns the boxes in `state`, without repetition, because the chains of Mermaid share boxes.
fn in_state(boxes: &[Box], state: State) -> BTreeSet<&str> {
    boxes
        .iter()
        .filter(|drawn| drawn.class == state.class())
        .map(|drawn| drawn.name.as_str())
        .collect()
}

fn svg(picture: &Picture) -> String {
    picture.render(Format::Svg, None).text
}

fn mermaid(picture: &Picture) -> String {
    picture.render(Format::Mermaid, None).text
}

/// Most faults of a world whose SVG is read with the XML parser, which is slow in a build for tests.
const PARSED_MAX: usize = 2;

#[test]
fn pictures_mark_exactly_the_broken_links_in_every_world() {
    let begin = ["<g class=\"link broken\">", "<g class=\"node source broken\">"];
    for faults in all_faults() {
        let expected: BTreeSet<_> = faults.iter().map(|fault| fault.broken_box()).collect();
        let picture = picture(world(&faults, &[]));
        let mermaid = boxes_of_mermaid(&mermaid(&picture));
        assert_eq!(in_state(&mermaid, State::Broken), expected, "{faults:?}");
        let svg = svg(&picture);
        // Two artifacts may lack their provenance.
        let count: usize = begin.iter().map(|element| svg.matches(element).count()).sum();
        assert_eq!(count, faults.len(), "{faults:?}");
        if faults.len() <= PARSED_MAX {
            let svg = boxes_of_svg(&svg);
            for state in State::ALL {
                assert_eq!(
                    in_state(&svg, state),
                    in_state(&mermaid, state),
                    "{faults:?} {state:?}"
                );
            }
        }
        no_statement_is_proven(&picture.chains[0]);
    }
}

/// Checks that only links that a comparison or Flux has checked are proven.
fn no_statement_is_proven(chain: &Chain) {
    let checked = ["Installation", "Kustomization", "Deployment", "Artifact", "Image"];
    let links = chain.lanes.iter().flat_map(Lane::links);
    for link in links.filter(|link| link.state == State::Proven) {
        let is_of_flux = link.to.kind == "Signature" && link.to.notes == ["verified by Flux"];
        assert!(checked.contains(&link.to.kind.as_str()) || is_of_flux, "{link:?}");
    }
}

#[test]
fn a_rejected_signature_breaks_its_link_and_nothing_else_is_compared() {
    let refused = Some("no matching signatures were found".to_owned());
    let chain = world::drawn(&BTreeSet::new(), &Proof { refused, ..Proof::default() });
    let broken: Vec<_> = chain
        .lanes
        .iter()
        .flat_map(Lane::links)
        .filter(|link| link.state == State::Broken)
        .collect();
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert_eq!(broken[0].to.notes, ["Flux rejects it: no matching signatures were found"]);
    assert!(chain.lanes.iter().all(|lane| lane.rows.is_empty()));
}

#[test]
fn a_controller_that_has_not_answered_proves_neither_its_object_nor_the_signature() {
    let object = world::source();
    let left = [Step::Reconcile { object, because: "it was asked".to_owned() }];
    let proof = Proof { is_signature_verified: Some(true), ..Proof::default() };
    let chain = world::drawn_after(&BTreeSet::new(), &proof, &left);
    let states: Vec<_> = chain.lanes[1].head.iter().take(3).map(|link| link.state).collect();
    assert_eq!(states, [State::Proven, State::Pending, State::Unchecked]);
}

#[test]
fn a_delivery_that_was_not_compared_has_no_proven_link() {
    use State::{Stated, Unchecked};
    let mut stream = world::stream(&BTreeSet::new());
    let declared = stream.documents_of();
    let lanes = unchecked_lanes(&stream, &declared[0]);
    let states: Vec<_> = lanes.iter().flat_map(Lane::links).map(|link| link.state).collect();
    assert_eq!(states, [Unchecked, Unchecked, Stated, Stated, Stated, Stated]);
    assert_eq!(chain(&stream, &declared[0], lanes).state, Unchecked);
}

#[test]
fn a_source_that_was_not_checked_is_said() {
    let mut stream = world::stream(&BTreeSet::new());
    let declared = stream.documents_of();
    for name in ["deployments", "greeter"] {
        let spec = stream.specs_mut("Artifact").find(|spec| spec["sourceCheck"].is_null());
        spec.expect(name)["sourceCheck"] = "skip".into();
    }
    let lanes = unchecked_lanes(&stream, &declared[0]);
    let branch = lanes[0].head.last().expect("a branch");
    assert_eq!(branch.state, State::Unchecked);
    assert_eq!(branch.to.notes, ["not checked: Artifact/deployments has sourceCheck: skip"]);
}

#[test]
fn each_result_of_a_comparison_is_on_its_own_link() {
    use State::{Broken, Pending, Proven, Stated, Unchecked};
    let (ours, other) = (format!("r/x@{}", digest('a')), format!("r/y@{}", digest('9')));
    let pending = || CheckResult::Pending("the kubelet has not reported the images yet".to_owned());
    let wrong = |link| CheckResult::Wrong("it differs".to_owned(), link);
    for (image, unattested, result, expected) in [
        ("", false, pending(), &[Pending][..]),
        (&ours, false, pending(), &[Pending, Pending, Stated, Stated, Stated, Stated]),
        (&ours, true, CheckResult::Attested, &[Unchecked, Proven, Stated, Stated, Stated, Stated]),
        (&other, false, CheckResult::Pinned, &[Proven, Proven, Unchecked]),
        (&other, true, wrong(BrokenLink::Manifest), &[Broken, Unchecked, Unchecked]),
        (&other, false, wrong(BrokenLink::Image), &[Proven, Broken, Unchecked]),
        (&ours, false, wrong(BrokenLink::Image), &[Proven, Broken, Stated, Stated, Stated, Stated]),
    ] {
        let mut check = check("default/a", "1", image, result);
        check.unattested = unattested.then(|| "GitRepository x is not attested".to_owned());
        let chain = world::drawn(
            &BTreeSet::new(),
            &Proof { checks: vec![check.clone()], ..Proof::default() },
        );
        let states: Vec<_> = chain.lanes[1].rows[0].iter().map(|link| link.state).collect();
        assert_eq!(states, expected, "{check:?}");
        let has_reason = |reason: &String| chain.lanes[1].rows[0][0].to.notes.contains(reason);
        assert!(
            check.unattested.as_ref().is_none_or(has_reason) || states[0] == Broken,
            "{check:?}"
        );
    }
    let unreachable = vec![(world::kustomization(), "delivers to another cluster".to_owned())];
    let chain = world::drawn(&BTreeSet::new(), &Proof { unreachable, ..Proof::default() });
    assert_eq!(chain.lanes[1].rows[0][0].state, Broken);
    let empty = Picture { chains: Vec::new() };
    assert!(boxes_of_svg(&svg(&empty)).is_empty() && boxes_of_mermaid(&mermaid(&empty)).is_empty());
}

#[test]
fn equal_pods_share_a_row_and_a_different_one_comes_first() {
    let image = format!("ghcr.io/zabronax/greeter@{}", digest('a'));
    let pods = |count: usize| -> Vec<_> {
        let pod =
            |number| check("default/many", &format!("{number}"), &image, CheckResult::Attested);
        (0..count).map(pod).collect()
    };
    let mut more = pods(300);
    let rows = |more: &[_]| world(&BTreeSet::new(), more).lanes.pop().expect("a lane").rows;
    let note = |row: &[Link]| row[0].to.notes[0].clone();
    assert_eq!(rows(&more).len(), 3);
    assert_eq!(note(&rows(&more)[1]), "container many, 300 pods");
    more[7].result = CheckResult::Wrong("it differs".to_owned(), BrokenLink::Image);
    assert_eq!(note(&rows(&more)[0]), "container many, pod many-7");
    assert_eq!(rows(&more)[0][1].state, State::Broken);
    assert_eq!(rows(&more).len(), 4);
    more.reverse();
    assert_eq!(note(&rows(&more)[2]), "container many, 299 pods");
}

#[test]
fn pictures_are_bounded_and_name_the_worst_state_of_what_they_leave_out() {
    let image = |number| format!("docker.io/library/{number}@{}", digest('c'));
    let wrong = || CheckResult::Wrong("it differs".to_owned(), BrokenLink::Image);
    // Three broken rows are shown unless each lane has two rows.
    let (proven, broken) = ([State::Proven; 2], [State::Broken; 2]);
    let three = [State::Proven, State::Broken];
    for (broken, expected) in [(0, proven), (3, three), (150, broken)] {
        let one = |number: usize| {
            let result = if number < broken { wrong() } else { CheckResult::Pinned };
            check(&format!("default/w{number:03}"), "1", &image(number), result)
        };
        let more: Vec<_> = (0..150).map(one).collect();
        let chain = world(&BTreeSet::new(), &more);
        for (count, expected) in [1, 30].into_iter().zip(expected) {
            let chains = vec![chain.clone(); count];
            let picture = Picture { chains };
            let text = mermaid(&picture);
            assert!(mermaid::fits(&text), "{}", text.len());
            let short = picture.shortened(ROWS_MAX);
            let rows: usize = short
                .chains
                .iter()
                .flat_map(|chain| &chain.lanes)
                .map(|lane| lane.rows.len())
                .sum();
            assert!(rows <= ROWS_MAX && short.chains.len() <= CHAINS_MAX, "{rows}");
            let folded = short.chains[0].lanes[1].rows.last().expect("a row");
            assert_eq!(folded[0].state, expected, "{folded:?}");
            assert!(svg(&picture).len() < 400_000);
        }
    }
}

/// Letters that are syntax of XML, Mermaid, HTML or Markdown, that are invisible, or that are wide.
fn hostile() -> impl Strategy<Value = String> {
    let parts = [
        "<", ">", "&", "\"", "'", "`", "```", "\n", "\r", "\t", "#", ";", "|", "]]>", "<!--",
        "-->", "--x", "\u{0}", "\u{7}", "\u{202e}", "\u{fffe}", "\u{feff}", "é", "日本", "🦀",
        "end", "subgraph", "%%", "{}", "[]", "()", "</svg>", "<script>", "#quot;", "&amp;",
        "click n0", ":::", "a", "0", " ", "/", "\\",
    ];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..24)
        .prop_map(|parts| parts.concat())
}

fn hostile_picture() -> impl Strategy<Value = Picture> {
    let texts = proptest::collection::vec(hostile(), 8);
    (texts, 0..State::ALL.len()).prop_map(|(texts, state)| {
        let text = |index: usize| texts[index].clone();
        let notes = vec![text(3), text(4)];
        let to =
            Node { kind: text(0), name: text(1), code: text(2), notes, details: vec![text(5)] };
        let link = Link { state: State::ALL[state], to };
        let lane =
            Lane { head: vec![link.clone(); 3], rows: vec![vec![link.clone(); 6], vec![link]] };
        let (document, message) = (text(6), text(7));
        Picture {
            chains: vec![Chain { document, state: State::ALL[state], message, lanes: vec![lane] }],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_changes_the_structure_of_a_picture(picture in hostile_picture()) {
        let boxes = boxes_of_svg(&svg(&picture));
        prop_assert_eq!(boxes.len(), 3 + 6 + 1);
        let Node { kind, name, .. } = &picture.chains[0].lanes[0].head[0].to;
        let shown = text::clean(&format!("{kind} {name}"));
        prop_assert_eq!(&boxes[0].name, &shown, "the parser gives back the text");
        // The parts of two equal chains are shared.
        prop_assert!(!boxes_of_mermaid(&mermaid(&picture)).is_empty());
    }
}

#[test]
fn formats_and_files_are_read_from_the_command_line() {
    let file = |name: &str| Some(PathBuf::from(name));
    for (text, output) in [
        ("json", ResultForm::Documents),
        ("svg", ResultForm::Other(Format::Svg, None)),
        ("mermaid=a=b", ResultForm::Other(Format::Mermaid, file("a=b"))),
    ] {
        assert_eq!(text.parse(), Ok(output));
    }
    for wrong in ["", "png", "svg=", "json=a", "SVG", "=a"] {
        assert!(wrong.parse::<ResultForm<Format>>().is_err(), "{wrong}");
    }
}

/// The pictures of the pages about deliveries.
#[test]
fn pictures_of_the_pages_are_drawn_by_this_version() {
    let broken = [Fault::SetByHand, Fault::OtherImage, Fault::NoProvenance].into();
    for (name, faults) in [("evidence", BTreeSet::new()), ("evidence-broken", broken)] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../knowledge/pictures");
        let path = format!("{folder}/{name}.svg");
        let drawn = svg(&picture(world(&faults, &[])));
        if std::env::var_os("SNAPSHOTS").is_some_and(|action| action == "overwrite") {
            std::fs::create_dir_all(folder).expect("the folder can be created");
            std::fs::write(&path, &drawn).expect("the picture can be written");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == drawn,
            "{path}: run this test with SNAPSHOTS=overwrite, and look at the picture"
        );
    }
}
