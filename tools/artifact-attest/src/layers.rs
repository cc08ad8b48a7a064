//! Distribution of a closure over the layers of an image, so that a new version of an image sends little.
//!
//! ```text
//! shared by all            shared by few            the build result
//! ├─ a large path alone    ├─ a large path alone    └─ with the links to it
//! ├─ small paths           └─ small paths
//! └─ small paths
//! ```
//!
//! nixpkgs' `dockerTools.streamLayeredImage` and nix2container give the most popular paths a layer each, and
//! put the rest into one. There the rest of a closure of 500 paths is most of its bytes, and each new path
//! moves the border of the rest. Here a path's layer depends on the path's name, on its size, and on how
//! many paths refer to it, so that a change elsewhere leaves the layer as it is.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::nix::References;

/// Size of a closure from which it is split, in bytes. A smaller one is sent in three seconds at 100 Mbit/s,
/// while every layer costs three requests, a file in the registry, and a mount in the container.
const SPLIT_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// Most layers of an image. Docker accepts 125, of which images with this one as their base need some
/// (<https://github.com/NixOS/nixpkgs/pull/66543>).
pub(crate) const LAYERS_MAX: usize = 64;
/// Part of a closure that a layer with several paths may have at most.
const PARTS_MIN: u64 = 10;
/// Length of the hash at the beginning of a store path's name, with the dash.
const HASH_LENGTH: usize = 33;

/// A path of a closure.
#[derive(Clone, Debug)]
struct Item<'a> {
    path: &'a str,
    size: u64,
    /// Binary logarithm of the number of paths that refer to this one.
    tier: u32,
    /// Place of the path among others. Versions of one package have the same first half.
    key: u128,
}

/// Returns the paths of each layer, the most shared ones first. The last layer has `out`, the build result.
/// `sizes` are those of all paths of the closure.
pub(crate) fn layers<'a>(
    sizes: &BTreeMap<&'a str, u64>,
    references: &References,
    out: &str,
) -> Vec<Vec<&'a str>> {
    let total: u64 = sizes.values().sum();
    if total < SPLIT_BYTES_MIN {
        return vec![sizes.keys().copied().collect()];
    }
    let popularity = popularity(sizes, references);
    let item = |(path, size): (&&'a str, &u64)| {
        let tier = (popularity[path] + 1).ilog2();
        Item { path, size: *size, tier, key: key(path) }
    };
    let mut items: Vec<_> = sizes.iter().filter(|(path, _)| **path != out).map(item).collect();
    items.sort_by_key(|item| (std::cmp::Reverse(item.tier), item.key));
    // A power of two, so that a closure that grows a little keeps its layers.
    let mut bytes_max = (total / (2 * PARTS_MIN)).next_power_of_two();
    let mut layers = split(&items, bytes_max);
    while layers.len() >= LAYERS_MAX {
        bytes_max *= 2;
        layers = split(&items, bytes_max);
    }
    layers.push(sizes.keys().copied().filter(|path| *path == out).collect());
    layers
}

/// Splits `items`, which are sorted by tier and key, into layers of at most `bytes_max`, or of one path.
fn split<'a>(items: &[Item<'a>], bytes_max: u64) -> Vec<Vec<&'a str>> {
    let mut layers = Vec::new();
    for tier in items.chunk_by(|one, other| one.tier == other.tier) {
        let (large, small): (Vec<_>, Vec<_>) =
            tier.iter().cloned().partition(|item| item.size > bytes_max / 2);
        layers.extend(large.iter().map(|item| vec![item.path]));
        halve(&small, u128::BITS, bytes_max, &mut layers);
    }
    layers
}

/// Splits `items` by the bits of their keys until each part has at most `bytes_max`. A path that grows or
/// appears changes its own part, and the parts of the others only when its part becomes too large.
fn halve<'a>(items: &[Item<'a>], bits: u32, bytes_max: u64, layers: &mut Vec<Vec<&'a str>>) {
    let size: u64 = items.iter().map(|item| item.size).sum();
    if items.is_empty() {
        return;
    }
    if size <= bytes_max || items.len() == 1 || bits == 0 {
        let mut paths: Vec<_> = items.iter().map(|item| item.path).collect();
        paths.sort_unstable();
        layers.push(paths);
        return;
    }
    let bit = bits - 1;
    let middle = items.partition_point(|item| (item.key >> bit) & 1 == 0);
    halve(&items[..middle], bit, bytes_max, layers);
    halve(&items[middle..], bit, bytes_max, layers);
}

/// Returns how many paths refer to each path, directly or through others.
fn popularity<'a>(
    sizes: &BTreeMap<&'a str, u64>,
    references: &References,
) -> BTreeMap<&'a str, usize> {
    let indices: BTreeMap<_, _> =
        sizes.keys().enumerate().map(|(index, path)| (*path, index)).collect();
    let mut referrers = vec![Vec::new(); sizes.len()];
    for (path, needed) in references {
        let Some(referrer) = indices.get(path.as_str()) else { continue };
        for needed in needed.iter().filter_map(|needed| indices.get(needed.as_str())) {
            referrers[*needed].push(*referrer);
        }
    }
    // The path from which each path was last seen.
    let mut seen = vec![usize::MAX; sizes.len()];
    let mut count = |path: usize| {
        let (mut count, mut left) = (0, vec![path]);
        seen[path] = path;
        while let Some(next) = left.pop() {
            for referrer in &referrers[next] {
                if seen[*referrer] != path {
                    seen[*referrer] = path;
                    count += 1;
                    left.push(*referrer);
                }
            }
        }
        count
    };
    sizes.keys().enumerate().map(|(index, path)| (*path, count(index))).collect()
}

/// Returns the place of a path among others, from its name without version, and then from the whole path.
fn key(path: &str) -> u128 {
    let half = |text: &str| {
        let hash = Sha256::digest(text.as_bytes());
        hash[..8].iter().fold(0_u128, |half, byte| (half << 8) | u128::from(*byte))
    };
    (half(package(path)) << 64) | half(path)
}

/// Returns the name of a path's package, without hash and version: `openssl` for
/// `/nix/store/…-openssl-3.0.14-bin`. A version begins after a dash that no letter follows
/// (<https://nix.dev/manual/nix/2.34/language/builtins#builtins-parseDrvName>).
fn package(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.get(HASH_LENGTH..).filter(|name| !name.is_empty()).unwrap_or(name);
    let is_version = |at: &usize| {
        name[at + 1..].chars().next().is_some_and(|letter| !letter.is_ascii_alphabetic())
    };
    let version = name.match_indices('-').map(|(at, _)| at).find(is_version);
    &name[..version.unwrap_or(name.len())]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OUT: &str = "/nix/store/00000000000000000000000000000000-app-1.0";

    /// A closure with made-up sizes and references.
    #[derive(Clone, Debug)]
    struct Closure {
        sizes: BTreeMap<String, u64>,
        references: References,
    }

    /// Pseudo-random numbers (Knuth, MMIX).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    fn path(number: u64, version: u64) -> String {
        format!(
            "/nix/store/{:032x}-package-{}-{version}.0",
            number * 7919 + version,
            letters(number)
        )
    }

    /// Names of packages differ in letters, because digits would begin a version.
    fn letters(number: u64) -> String {
        number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
    }

    impl Closure {
        /// Returns a closure whose path `n` refers to paths with greater numbers, and `out` to some of all.
        fn of(seed: u64) -> Self {
            let mut chance = Chance(seed);
            let count = 2 + chance.below(if seed.is_multiple_of(7) { 500 } else { 150 });
            // Equal sizes, similar sizes, or a few large paths among many small ones.
            let size = |chance: &mut Chance| match seed % 3 {
                0 => 1 << 20,
                1 => (1 << 16) + chance.below(4 << 20),
                _ => 1 << (10 + chance.below(16)),
            };
            let mut closure = Self { sizes: BTreeMap::new(), references: BTreeMap::new() };
            for number in 0..count {
                let needs = (0..chance.below(6)).map(|_| number + 1 + chance.below(count));
                let needs: Vec<_> = needs.filter(|needed| *needed < count).collect();
                let size = size(&mut chance);
                closure.sizes.insert(path(number, 1), size);
                let needs = needs.into_iter().map(|needed| path(needed, 1)).collect();
                closure.references.insert(path(number, 1), needs);
            }
            closure.sizes.insert(OUT.to_owned(), 1 << (10 + seed % 14));
            let needed: BTreeSet<_> = closure.references.values().flatten().cloned().collect();
            let roots = closure.sizes.keys().filter(|path| *path != OUT && !needed.contains(*path));
            let roots = roots.cloned().collect();
            closure.references.insert(OUT.to_owned(), roots);
            closure
        }

        fn total(&self) -> u64 {
            self.sizes.values().sum()
        }

        fn layers(&self) -> Vec<Vec<String>> {
            let sizes = self.sizes.iter().map(|(path, size)| (path.as_str(), *size)).collect();
            let layers = layers(&sizes, &self.references, OUT).into_iter();
            layers.map(|paths| paths.into_iter().map(str::to_owned).collect()).collect()
        }

        /// Replaces one path by its next version, of `size` bytes.
        fn with(&self, old: &str, new: &str, size: u64) -> Self {
            let name = |path: &String| if path == old { new.to_owned() } else { path.clone() };
            let mut sizes: BTreeMap<_, _> =
                self.sizes.iter().map(|(path, size)| (name(path), *size)).collect();
            sizes.insert(new.to_owned(), size);
            let references = self.references.iter();
            let references = references
                .map(|(path, needed)| (name(path), needed.iter().map(name).collect()))
                .collect();
            Self { sizes, references }
        }

        /// Returns a path that only `out` refers to.
        fn leaf(&self, chance: &mut Chance) -> Option<String> {
            let leaves: Vec<_> = self.references[OUT].iter().collect();
            let count = u64::try_from(leaves.len()).ok().filter(|count| *count > 0)?;
            leaves.get(usize::try_from(chance.below(count)).ok()?).map(|path| (*path).clone())
        }

        fn size_of(&self, layer: &[String]) -> u64 {
            layer.iter().map(|path| self.sizes[path]).sum()
        }
    }

    fn closures() -> impl Iterator<Item = (u64, Closure)> {
        (1..60).map(|seed| (seed, Closure::of(seed)))
    }

    #[test]
    fn every_path_is_in_one_layer_and_layers_are_few_and_deterministic() {
        let mut split = 0;
        for (seed, closure) in closures() {
            let layers = closure.layers();
            assert_eq!(layers, closure.layers(), "{seed}");
            assert!(layers.len() <= LAYERS_MAX, "{seed}: {} layers", layers.len());
            assert!(layers.iter().all(|layer| !layer.is_empty()), "{seed}");
            let mut paths: Vec<_> = layers.iter().flatten().cloned().collect();
            paths.sort();
            let all: Vec<_> = closure.sizes.keys().cloned().collect();
            assert_eq!(paths, all, "{seed}");
            let is_small = closure.total() < SPLIT_BYTES_MIN;
            assert_eq!(layers.len() == 1, is_small, "{seed}: one layer for a small closure alone");
            if !is_small {
                split += 1;
                assert_eq!(layers.last().map(Vec::as_slice), Some(&[OUT.to_owned()][..]), "{seed}");
            }
        }
        assert!(split > 30, "{split}");
    }

    #[test]
    fn a_layer_with_several_paths_has_at_most_a_tenth_of_the_closure() {
        for (seed, closure) in closures().filter(|(_, closure)| closure.total() >= SPLIT_BYTES_MIN)
        {
            for layer in closure.layers() {
                let size = closure.size_of(&layer);
                let is_small = size * PARTS_MIN <= closure.total();
                assert!(layer.len() == 1 || is_small, "{seed}: {layer:?} has {size} bytes");
            }
        }
    }

    #[test]
    fn a_new_version_of_a_leaf_changes_its_own_layer_alone() {
        let mut chance = Chance(7);
        for (seed, closure) in closures() {
            let Some(old) = closure.leaf(&mut chance) else { continue };
            let number = old.as_str();
            let new = number.replace("-1.0", "-2.0").replacen("/0", "/f", 1);
            let next = closure.with(&old, &new, closure.sizes[&old]);
            let before: BTreeSet<_> = closure.layers().into_iter().collect();
            let changed: Vec<_> =
                next.layers().into_iter().filter(|layer| !before.contains(layer)).collect();
            assert_eq!(changed.len(), 1, "{seed}: {changed:?}");
            assert!(changed[0].contains(&new), "{seed}");
        }
    }

    /// A path that grows may make its layer too large, which splits the layer.
    #[test]
    fn a_leaf_that_grows_by_five_percent_sends_a_tenth_of_the_closure_beside_itself() {
        let (mut chance, mut few, mut all) = (Chance(11), 0, 0);
        for (_, closure) in closures().filter(|(_, closure)| closure.total() >= SPLIT_BYTES_MIN) {
            let Some(old) = closure.leaf(&mut chance) else { continue };
            let size = closure.sizes[&old] * 21 / 20;
            let next = closure.with(&old, &old, size);
            let before: BTreeSet<_> = closure.layers().into_iter().collect();
            let changed = next
                .layers()
                .into_iter()
                .filter(|layer| !before.contains(layer) || layer.contains(&old));
            let sent: u64 = changed.map(|layer| next.size_of(&layer)).sum();
            all += 1;
            few += u32::from(sent <= closure.total() / PARTS_MIN + size);
        }
        assert!(few * 100 >= all * 97, "{few} of {all}");
    }

    #[test]
    fn paths_that_many_others_need_are_apart_from_those_that_few_need() {
        for (seed, closure) in closures().filter(|(_, closure)| closure.total() >= SPLIT_BYTES_MIN)
        {
            let sizes = closure.sizes.iter().map(|(path, size)| (path.as_str(), *size)).collect();
            let popularity = popularity(&sizes, &closure.references);
            let mut last = u32::MAX;
            for layer in closure.layers() {
                let tiers = layer.iter().map(|path| (popularity[path.as_str()] + 1).ilog2());
                let tiers: BTreeSet<_> = tiers.collect();
                assert_eq!(tiers.len(), 1, "{seed}: {tiers:?}");
                assert!(tiers.iter().all(|tier| *tier <= last), "{seed}: the most shared first");
                last = tiers.into_iter().next().unwrap_or_default();
            }
        }
    }

    #[test]
    fn versions_and_outputs_of_a_package_have_one_name() {
        for (path, name) in [
            ("/nix/store/00000000000000000000000000000000-openssl-3.0.14-bin", "openssl"),
            ("/nix/store/00000000000000000000000000000000-glibc-2.40-66", "glibc"),
            (
                "/nix/store/00000000000000000000000000000000-python3.12-numpy-2.1",
                "python3.12-numpy",
            ),
            ("/nix/store/00000000000000000000000000000000-source", "source"),
            ("/nix/store/00000000000000000000000000000000-a-", "a-"),
            ("short", "short"),
        ] {
            assert_eq!(package(path), name);
        }
    }
}
