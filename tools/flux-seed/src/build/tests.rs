use serde_json::json;

use super::*;

fn files(all: &[(&str, &str)]) -> Files {
    all.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn names(all: &[(&str, &str)], spec: &Value) -> Result<Vec<String>, String> {
    let build = of_kustomization(&files(all), spec)?;
    let mut names: Vec<_> =
        build.objects.iter().map(|object| Identity::of(object).to_string()).collect();
    names.sort();
    Ok(names)
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: ns}\n";
const TWO: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n---\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";

#[test]
fn build_reads_a_folder_with_and_without_a_kustomization() {
    let root = json!({"path": "./"});
    let plain =
        [("a.yaml", MAP), ("x/two.yml", TWO), ("x/read.me", "no YAML: ["), ("y.json", "{}")];
    let all = ["ConfigMap b", "ConfigMap c", "ConfigMap ns/a"];
    assert_eq!(names(&plain, &root).as_deref(), Ok(all.map(str::to_owned).as_slice()));
    assert_eq!(names(&plain, &json!({"path": "./x"})).map(|names| names.len()), Ok(2));

    // A folder with a kustomization is built by it, and files that it does not name are left out.
    let mut sub = plain.to_vec();
    sub.extend([("x/kustomization.yaml", "resources: []"), ("x/z/unnamed.yaml", MAP)]);
    assert_eq!(names(&sub, &root).as_deref(), Ok(["ConfigMap ns/a".to_owned()].as_slice()));
    let named = [
        ("base/two.yaml", TWO),
        ("base/kustomization.yml", "resources: [two.yaml]\nnamespace: inner"),
        ("over/kustomization.yaml", "resources: [../base]\nlabels: [{pairs: {a: b}}]"),
    ];
    let over = json!({"path": "./over"});
    let moved = ["ConfigMap inner/b", "ConfigMap inner/c"].map(str::to_owned);
    assert_eq!(names(&named, &over).as_deref(), Ok(moved.as_slice()));
    let target = json!({"path": "./over", "targetNamespace": "outer"});
    let moved = ["ConfigMap outer/b", "ConfigMap outer/c"].map(str::to_owned);
    assert_eq!(names(&named, &target).as_deref(), Ok(moved.as_slice()));
}

#[test]
fn build_unpacks_lists_and_leaves_out_local_objects() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n";
    let local = "apiVersion: v1\nkind: Secret\nmetadata: {name: l, annotations: {config.kubernetes.io/local-config: \"true\"}}\n";
    let all = [("list.yaml", list), ("local.yaml", local)];
    assert_eq!(
        names(&all, &json!({"path": "./"})).as_deref(),
        Ok(["Secret s".to_owned()].as_slice())
    );
}

#[test]
fn build_fails_with_the_cause_when_the_objects_cannot_be_determined() {
    let patch = "patches: [{patch: \"$patch: delete\\nkind: ConfigMap\\nmetadata: {name: a}\"}]\nresources: [a.yaml]";
    for (field, why) in [
        ("components: [x]", "components"),
        ("namePrefix: x-", "namePrefix"),
        ("nameSuffix: -x", "nameSuffix"),
        ("resources: [https://example.org/x]", "https://example.org/x"),
        ("resources: [../../x]", "../../x"),
        ("resources: [missing.yaml]", "missing.yaml"),
        ("generators: [x.yaml]", "generators"),
        ("transformers: [x.yaml]", "transformers"),
        ("replacements: [{}]", "replacements"),
        ("helmCharts: [{name: x}]", "helmCharts"),
        ("vars: [{name: X}]", "vars"),
        ("future: [x]", "future"),
        (patch, "$patch"),
        ("{", "YAML"),
    ] {
        let all = [("kustomization.yaml", field), ("a.yaml", MAP)];
        let error = names(&all, &json!({"path": "./"})).expect_err(field);
        assert!(error.contains(why), "{field}: {error}");
    }
    for (file, text) in [
        ("a.yaml", "no: object"),
        ("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: n}\n"),
        ("a.yaml", "a: [\n"),
        ("a.yaml", "{{ .Values.x }}"),
        (".sourceignore", "x"),
    ] {
        assert!(names(&[(file, text)], &json!({"path": "./"})).is_err(), "{text}");
    }
    let map = [("a.yaml", MAP)];
    for spec in [
        json!({"path": "./../x"}),
        json!({"path": "./", "namePrefix": "x"}),
        json!({"path": "./", "components": ["x"]}),
        json!({"path": "./", "patches": [{"patch": "$patch: delete"}]}),
    ] {
        assert!(names(&map, &spec).is_err(), "{spec}");
    }
    let substituted = [("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"${x}\"}\n")];
    let post = json!({"path": "./", "postBuild": {"substitute": {"x": "y"}}});
    assert!(names(&substituted, &post).is_err());
}

#[test]
fn build_is_inexact_and_keeps_every_object_when_there_are_patches() {
    for field in [
        "patches: [{path: p.yaml}]",
        "patchesStrategicMerge: [p.yaml]",
        "replicas: [{name: a, count: 2}]",
    ] {
        let text = format!("resources: [a.yaml]\n{field}");
        let all =
            [("kustomization.yaml", text.as_str()), ("a.yaml", MAP), ("p.yaml", "spec: {x: 1}")];
        let build = of_kustomization(&files(&all), &json!({"path": "./"})).expect(field);
        assert!(build.inexact && build.objects.len() == 1, "{field}");
        let all =
            [("kustomization.yaml", text.as_str()), ("a.yaml", MAP), ("p.yaml", "$patch: delete")];
        let deletes = of_kustomization(&files(&all), &json!({"path": "./"})).is_err();
        assert_eq!(deletes, field.contains("p.yaml"), "{field}");
    }
}

// hazard: A manifest of an unexpected shape makes the program panic in the middle of an apply.
// class: Input is indexed without a check of its shape.
// members: responses of the API server, records of managers, archives, kustomizations
// now: an error that names the file, or `cannot be determined`
#[test]
fn build_does_not_panic_on_random_bytes() {
    let mut seed = 7_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).to_be_bytes()[7]
    };
    let parts = [
        "kind: ",
        "ConfigMap",
        "metadata: ",
        "{name: a}",
        "[",
        "]",
        "\n",
        "- ",
        "---",
        "resources",
        "namespace",
        ": ",
        "x",
        "\"",
        "null",
        "items: ",
        "apiVersion: v1",
    ];
    for _ in 0..2000 {
        let text: String =
            (0..random() % 24).map(|_| parts[usize::from(random()) % parts.len()]).collect();
        let bytes: Vec<u8> = (0..random() % 40).map(|_| random()).collect();
        for name in ["kustomization.yaml", "a.yaml", "x/kustomization.yml"] {
            let mut all = files(&[(name, &text)]);
            let _ = of_kustomization(&all, &json!({"path": "./", "targetNamespace": "n"}));
            all.insert("b.yaml".to_owned(), bytes.clone());
            let _ = of_kustomization(&all, &json!({"path": "./"}));
        }
    }
}
