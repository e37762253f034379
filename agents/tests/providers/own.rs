//! Models of a user's own in the store.

use std::fs;

use galen_agents::llm::registry::{Registry, digest};
use galen_agents::llm::store::{PullError, add, drop_own, remove};

use super::pull::{Watch, files};
use super::support;

#[tokio::test]
async fn a_gguf_of_ones_own_is_listed_with_what_its_header_says() {
    let Some(path) = support::model("smollm2-135m") else { return };
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    let model = add(&path, Some("mine"), folder.path(), &watch).await.unwrap().model;
    assert_eq!((model.family.as_str(), model.parameters, model.context), ("llama", 134_515_008, 8_192));
    assert_eq!(model.sha256.clone().unwrap(), digest(&path).unwrap());
    let listed = Registry::load(folder.path()).unwrap();
    listed.find("mine").unwrap().verify(&model.path(folder.path())).unwrap();
    let taken = add(&path, Some("mine"), folder.path(), &watch).await;
    assert!(matches!(taken, Err(PullError::Usage(_))), "{taken:?}");
    for bad in ["../x", "a/b", "smollm2-135m", ".x", "a b"] {
        assert!(matches!(add(&path, Some(bad), folder.path(), &watch).await, Err(PullError::Usage(_))), "{bad}");
    }
    let no_model = folder.path().join("no.gguf");
    fs::write(&no_model, "GGUF").unwrap();
    assert!(matches!(add(&no_model, None, folder.path(), &watch).await, Err(PullError::Store(_))));
    // One that lies there already under its name is only listed.
    let here = folder.path().join("here.gguf");
    fs::copy(&path, &here).unwrap();
    let listed = add(&here, None, folder.path(), &watch).await.unwrap().model;
    assert_eq!((listed.name.as_str(), digest(&here).unwrap()), ("here", listed.sha256.clone().unwrap()));
    assert!(remove(&listed, folder.path(), true).unwrap() && drop_own("here", folder.path()).unwrap());
    assert!(remove(&model, folder.path(), true).unwrap() && drop_own("mine", folder.path()).unwrap());
    assert!(!drop_own("mine", folder.path()).unwrap());
    assert!(Registry::own(folder.path()).unwrap().models.is_empty());
}

#[tokio::test]
async fn an_interrupted_copy_of_ones_own_leaves_nothing_and_does_not_keep_the_name() {
    let Some(path) = support::model("smollm2-135m") else { return };
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    let (first, again) = (add(&path, Some("mine"), folder.path(), &watch), add(&path, Some("mine"), folder.path(), &watch));
    let mut first = Box::pin(first);
    tokio::select! {
        biased;
        done = &mut first => panic!("{done:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(files(folder.path()), [".mine.partial", ".mine.partial.from"]);
    assert!(matches!(again.await, Err(PullError::Busy(_))));
    drop(first);
    assert_eq!(files(folder.path()), [""; 0]);
    add(&path, Some("mine"), folder.path(), &watch).await.unwrap();
    assert_eq!(files(folder.path()), ["mine.gguf", "mine.gguf.sha256", "own.toml"]);
}
