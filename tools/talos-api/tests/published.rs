//! The descriptions in `proto`, compared with those that the vendors publish: the Go modules
//! `github.com/siderolabs/talos/pkg/machinery` and `github.com/cosi-project/runtime`.
//!
//! Needs Go, which fetches these modules, so that no description was written by this project on
//! both sides of the comparison.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;
use testing::go;

/// Program in Go that holds the published descriptions.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/published");

// hazard: A field has another number in our description than in Talos, so a machine's answer is read as
// an empty text, and etcd never starts. The emulator shared the description and agreed.
// class: An emulator repeats the error of the client that it tests.
// members: names of methods, types of fields, values of enums, streams
// now: a test fails and names the field
#[test]
fn every_name_number_and_type_is_the_published_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = go::build(SOURCE, folder.path());
    let output = compare(&program, talos_api::FILE_DESCRIPTOR_SET);
    let compared = String::from_utf8_lossy(&output.stdout);
    let differences = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{differences}");
    assert!(compared.contains(&counts()), "{compared} instead of {}", counts());

    // The number that the description had before this test existed.
    let wrong = changed("FileInfo", "relative_name", |field| field.number = Some(8));
    assert_eq!(differences_of(&program, &wrong), FILE_INFO_NUMBER);
    let wrong = changed("EtcdMember", "id", |field| field.set_type(Type::Int64));
    assert_eq!(
        differences_of(&program, &wrong),
        "machine.EtcdMember.id: type is int64, published is uint64\n"
    );
    let wrong = changed("ServiceInfo", "state", |field| field.name = Some("status".to_owned()));
    assert_eq!(differences_of(&program, &wrong), "machine.ServiceInfo.status: not published\n");
}

const FILE_INFO_NUMBER: &str = "machine.FileInfo.relative_name: number is 8, published is 9\n";

/// Compares an encoded set of descriptions with the published ones.
fn compare(program: &Path, descriptions: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the Go program");
    child.stdin.take().expect("its input").write_all(descriptions).expect("written");
    child.wait_with_output().expect("its output")
}

fn differences_of(program: &Path, descriptions: &FileDescriptorSet) -> String {
    let output = compare(program, &descriptions.encode_to_vec());
    assert!(!output.status.success(), "no difference was found");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn descriptions() -> FileDescriptorSet {
    FileDescriptorSet::decode(talos_api::FILE_DESCRIPTOR_SET).expect("our descriptions")
}

/// Returns our descriptions with another description of one field of the package `machine`.
fn changed(
    message: &str,
    field: &str,
    change: impl FnOnce(&mut prost_types::FieldDescriptorProto),
) -> FileDescriptorSet {
    let mut descriptions = descriptions();
    let file = descriptions.file.iter_mut().find(|file| file.package() == "machine");
    let messages = &mut file.expect("the package").message_type;
    let message = messages.iter_mut().find(|described| described.name() == message);
    let fields = &mut message.expect("the message").field;
    change(fields.iter_mut().find(|described| described.name() == field).expect("the field"));
    descriptions
}

/// Returns what the program reports after it has compared every method of our description.
fn counts() -> String {
    let services = descriptions().file.into_iter().flat_map(|file| file.service);
    format!(", {} methods", services.map(|service| service.method.len()).sum::<usize>())
}
