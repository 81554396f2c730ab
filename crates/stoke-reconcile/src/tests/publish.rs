//! Images in registries.

use std::collections::BTreeMap;

use serde_json::json;

use super::{World, image, object, reference, version};
use crate::{Publication, RegistryPlaces, VersionNote};
use stoke_api::{AnyObject, Kind};

fn published(to: &[&str]) -> World {
    let AnyObject::Image(mut image) = image() else { panic!("an image") };
    image.spec.publish = to.iter().map(|place| (*place).to_owned()).collect();
    World::new(vec![AnyObject::Image(image)])
}

fn said(world: &World) -> Option<String> {
    let image = world.observed.objects.iter().find(|object| object.reference() == reference(Kind::Image, "node"))?;
    let condition = image.conditions().iter().find(|condition| condition.kind == "Published")?;
    Some(format!("{:?} {}: {}", condition.status, condition.reason, condition.message))
}

#[test]
fn what_is_handed_out_is_published_and_nothing_is_built_for_that() {
    let mut world = published(&["registry.test/lab/node:stable", "registry.test/lab/node"]);
    world.settle();
    let wanted = world.round().publications;
    let short = version(7).digest.short();
    let places: Vec<_> = wanted.iter().map(|publication| publication.reference.as_str()).collect();
    assert_eq!(places, ["registry.test/lab/node:stable", &format!("registry.test/lab/node:{short}")]);
    assert_eq!(said(&world).unwrap(), format!("False Pushing: {}", places.join(", ")));

    let results = |second: Result<(), String>| -> BTreeMap<Publication, _> {
        BTreeMap::from([(wanted[0].clone(), Ok(())), (wanted[1].clone(), second)])
    };
    world.observed.environment.publications = results(Err("it refuses".to_owned()));
    world.round();
    assert_eq!(said(&world).unwrap(), "False PushFailed: it refuses; tried again soon");
    world.observed.environment.publications = results(Ok(()));
    let desired = world.round();
    assert!(said(&world).unwrap().starts_with("True Pushed: registry.test/lab/node:stable@sha256:"));
    assert!(desired.workloads.iter().all(|workload| workload.role.word() != "build"));

    // Another place is no reason to build.
    let AnyObject::Image(image) = world.object(Kind::Image, "node") else { panic!("an image") };
    image.spec.publish.push("other.test/node:1".to_owned());
    let desired = world.round();
    assert!(desired.workloads.iter().all(|workload| workload.role.word() != "build"));
    assert_eq!(desired.publications.len(), 3);
}

#[test]
fn a_new_signature_is_published() {
    let mut world = published(&["registry.test/node:1"]);
    world.settle();
    let wanted = world.round().publications.remove(0);
    world.observed.environment.publications.insert(wanted.clone(), Ok(()));
    world.round();
    assert!(said(&world).unwrap().starts_with("True"));
    let note = VersionNote {
        digest: version(7).digest,
        published: String::new(),
        kept: false,
        signed_by: vec!["ab".to_owned()],
    };
    world.observed.environment.images.get_mut("default/node").unwrap().notes = vec![note];
    let again = world.round().publications.remove(0);
    assert_eq!(again, Publication { signed_by: vec!["ab".to_owned()], ..wanted });
    assert!(said(&world).unwrap().starts_with("False Pushing"));
}

#[test]
fn only_where_the_administrator_lets_it() {
    let mut world = published(&["registry.test/default/node:1", "registry.test/other/node:1"]);
    let places = vec!["registry.test/{namespace}".to_owned()];
    world.observed.environment.registries = RegistryPlaces::These(places);
    world.settle();
    assert_eq!(world.round().publications.len(), 1);
    let said = said(&world).unwrap();
    assert!(
        said.starts_with("False NotAllowed: images of namespace default may not go to registry.test/other/node:1"),
        "{said}"
    );
}

#[test]
fn an_image_that_goes_nowhere_says_nothing_of_it() {
    let mut world = published(&[]);
    world.settle();
    assert_eq!(said(&world), None);
}

#[test]
fn what_is_no_place_is_refused() {
    let mut spec = json!({"source": {"debian": {"suite": "bookworm"}}, "forms": {"netboot": {}}});
    let digest = version(1).digest;
    spec["publish"] = json!(["registry.test/UPPER", format!("registry.test/node@{digest}"), "registry.test/node:1"]);
    let AnyObject::Image(image) = object(json!({"kind": "Image", "metadata": {"name": "node"}, "spec": spec})) else {
        panic!("an image")
    };
    let problems: Vec<_> = image.spec.check().into_iter().map(|problem| (problem.field, problem.message)).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].0 == "spec.publish[0]" && problems[0].1.contains("write HOST/REPOSITORY:TAG"));
    assert_eq!(
        problems[1],
        ("spec.publish[1]".to_owned(), "a digest cannot be chosen: it is the content's".to_owned())
    );
}
