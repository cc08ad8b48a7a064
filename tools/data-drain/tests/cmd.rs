//! Every page under `tests/cmd` is run and compared: standard output, standard error and status.

#[test]
fn pages() {
    let root = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    trycmd::TestCases::new().env("ROOT", root).case("tests/cmd/*.md");
}
