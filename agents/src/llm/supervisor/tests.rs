//! What fails and what waits, with processes of the tests' own.

use super::super::batched::Counts;
use super::super::protocol::LONGEST_MESSAGE;
use super::*;

fn open(reply: bool, began: bool, deadline: Instant) -> Open {
    let reply = reply.then(|| oneshot::channel().0);
    Open { asker: Asker::default(), adapt: None, asked: Instant::now(), waited: Duration::ZERO, reply, deadline, began }
}

/// A supervisor whose process is a shell script.
fn scripted(text: &str) -> Supervisor {
    let mut config = LocalConfig::new("m.gguf".into()).unwrap();
    let text = format!("ready() {{ echo '{{\"ready\":{{\"load_ms\":1,\"context\":64}}}}'; }}\n{text}");
    (config.exe, config.exe_arguments) = ("/bin/sh".into(), vec!["-c".into(), text, "worker".into()]);
    Supervisor::new(config, Arc::default())
}

#[test]
fn what_was_at_work_together_fails_once() {
    let mut supervisor = Supervisor::new(LocalConfig::new("m.gguf".into()).unwrap(), Arc::default());
    let (early, error) = (Instant::now(), LlmError::Timeout(1));
    for _ in 0..3 {
        supervisor.failed(&error, early);
    }
    assert_eq!(supervisor.vitals.failures.load(Ordering::Relaxed), 1);
    for count in 2..=MOST_FAILURES {
        std::thread::sleep(Duration::from_millis(1));
        supervisor.failed(&error, Instant::now());
        assert_eq!(supervisor.vitals.failures.load(Ordering::Relaxed), count);
    }
    assert!(supervisor.given_up());
}

#[tokio::test]
async fn a_process_that_ends_holds_nothing_any_more() {
    let mut supervisor = Supervisor::new(LocalConfig::new("m.gguf".into()).unwrap(), Arc::default());
    supervisor.open.insert(1, open(true, true, Instant::now()));
    supervisor.vitals.metrics().open = 1;
    supervisor.vitals.metrics().engine(Counts { batches: 5, cells: 7, running: 1, ..Counts::default() });
    supervisor.end().await;
    let metrics = supervisor.vitals.metrics().clone();
    assert_eq!((metrics.counts(), metrics.open), (Counts { batches: 5, ..Counts::default() }, 0));
}

#[test]
fn a_request_that_waits_in_the_process_is_no_sign_of_a_hang() {
    let mut config = LocalConfig::new("m.gguf".into()).unwrap();
    (config.request_timeout, config.drop_timeout) = (Duration::from_secs(3), Duration::from_secs(9));
    let mut supervisor = Supervisor::new(config, Arc::default());
    let (before, now) = (Instant::now(), Instant::now() + Duration::from_secs(60));
    for (id, reply, began) in [(1, true, true), (2, false, true), (3, true, false), (4, false, false)] {
        supervisor.open.insert(id, open(reply, began, before));
    }
    supervisor.alive(now, Some(3));
    let left: Vec<Option<u64>> = supervisor.open.values().map(|o| o.deadline.checked_duration_since(now).map(|d| d.as_secs())).collect();
    // What has begun keeps its time; what waits has it from now on, also the dropped one that is still in the queue.
    assert_eq!(left, [None, None, Some(3), Some(9)]);
    assert!(supervisor.open[&3].began && !supervisor.open[&4].began);
}

#[tokio::test]
async fn what_a_request_waits_before_the_process_has_it_is_time_in_the_queue() {
    let cost = r#""usage":{"prompt_tokens":0,"reused_tokens":0,"generated_tokens":0},"times":{"queued_us":7,"ran_us":0}"#;
    let answer = format!(r#"{{"answer":{{"id":1,"result":{{"Ok":"adapted"}},{cost},"counts":null}}}}"#);
    let mut supervisor = scripted(&format!("ready; read line; echo '{answer}'; read line"));
    supervisor.launch().await.unwrap();
    // It came a thousand seconds ago, and the process was restarted or at something meanwhile.
    let since = Instant::now().checked_sub(Duration::from_secs(1_000)).unwrap();
    let (reply, answered) = oneshot::channel();
    supervisor.take(Job { id: 1, task: Task::Adapt(None), reply, since }).await;
    let message = next(&mut supervisor.process).await;
    supervisor.hear(message).await;
    assert_eq!(answered.await.unwrap(), Ok(Output::Adapted));
    let queued = supervisor.vitals.metrics().queued_us;
    assert!(queued >= 1_000_000_007, "{queued}");
    // One that is refused has waited too.
    supervisor.vitals.failures.store(MOST_FAILURES, Ordering::Relaxed);
    let (reply, answered) = oneshot::channel();
    supervisor.take(Job { id: 2, task: Task::Adapt(None), reply, since }).await;
    assert!(matches!(answered.await.unwrap(), Err(LlmError::Unavailable(_))));
    let queued = supervisor.vitals.metrics().queued_us;
    assert!(queued >= 2_000_000_007, "{queued}");
    supervisor.end().await;
}

#[tokio::test]
async fn starts_after_failures_are_a_pause_apart_that_doubles() {
    let mut supervisor = scripted("ready; read line");
    for failures in 1..MOST_FAILURES {
        supervisor.vitals.failures.store(failures, Ordering::Relaxed);
        let before = Instant::now();
        supervisor.ready().await.unwrap();
        assert!(before.elapsed() >= FIRST_PAUSE * 2_u32.pow(failures - 1), "{failures}");
        assert_eq!(supervisor.vitals.metrics().up, Some(true));
        supervisor.end().await;
        assert_eq!(supervisor.vitals.metrics().up, Some(false));
    }
    supervisor.vitals.failures.store(MOST_FAILURES, Ordering::Relaxed);
    assert!(matches!(supervisor.ready().await, Err(LlmError::Unavailable(_))));
    assert_eq!(supervisor.vitals.metrics().restarts, 2);
}

#[test]
fn only_a_process_at_work_that_tells_of_steps_is_called_silent() {
    let mut supervisor = Supervisor::new(LocalConfig::new("m.gguf".into()).unwrap(), Arc::default());
    let now = Instant::now();
    supervisor.open.insert(1, open(true, true, now));
    assert_eq!(supervisor.hangs_at(), None, "it has told of no step");
    supervisor.pulse.begin(now);
    supervisor.pulse.hear(now, true);
    assert_eq!(supervisor.hangs_at(), Some(now + supervisor.config.drop_timeout));
    supervisor.open.clear();
    assert_eq!(supervisor.hangs_at(), None, "it has nothing to do");
}

#[tokio::test]
async fn a_process_that_says_what_is_no_message_is_ended_and_started_again() {
    let long = format!("a message of more than {LONGEST_MESSAGE} bytes");
    for (says, what) in [("exec cat /dev/zero", long.as_str()), ("echo nonsense; read line", "what is no message")] {
        let says = format!("echo oops >&2; {says}");
        let mut supervisor = scripted(&format!("ready; read line; {says}"));
        supervisor.launch().await.unwrap();
        let (reply, answered) = oneshot::channel();
        supervisor.take(Job { id: 1, task: Task::Adapt(None), reply, since: Instant::now() }).await;
        let message = next(&mut supervisor.process).await;
        supervisor.hear(message).await;
        let Err(LlmError::Crashed(why)) = answered.await.unwrap() else { panic!("{says}: taken for an answer") };
        assert!(why.contains(what) && why.contains("(oops)") && supervisor.process.is_none(), "{why}");
        assert_eq!(supervisor.vitals.failures.load(Ordering::Relaxed), 1);
        supervisor.ready().await.unwrap();
        assert_eq!(supervisor.vitals.metrics().restarts, 1);
        supervisor.end().await;
        // The same in place of its first message.
        let Err(LlmError::Unavailable(why)) = scripted(&says).launch().await else { panic!("{says}: taken for loaded") };
        assert!(why.contains(what) && why.contains("(oops)"), "{why}");
    }
}

#[tokio::test]
async fn a_process_that_never_stops_talking_keeps_nobody_waiting() {
    // Faster than it can be heard.
    let mut supervisor = scripted(r#"ready; read line; exec yes '{"began":{"id":1}}'"#);
    (supervisor.config.request_timeout, supervisor.config.drop_timeout) = (Duration::from_millis(200), Duration::from_millis(200));
    let (jobs, queue) = mpsc::channel(1);
    let (_drops, dropped) = mpsc::unbounded_channel();
    let (started, starting) = oneshot::channel::<Result<ModelIdentity, LlmError>>();
    let asking = async move {
        starting.await.unwrap().unwrap();
        let (reply, answered) = oneshot::channel();
        jobs.send(Job { id: 1, task: Task::Adapt(None), reply, since: Instant::now() }).await.unwrap();
        answered.await.unwrap()
    };
    let identity = ModelIdentity { name: "m".into(), sha256: "0".into() };
    // It is out of time, then the process for not dropping it, and then the queue is seen to be closed.
    let all = async { tokio::join!(asking, supervisor.serve(queue, dropped, identity, started)) };
    let (answer, ()) = timeout(Duration::from_secs(30), all).await.expect("something is heard beside the process");
    assert_eq!(answer, Err(LlmError::Timeout(200)));
    assert!(supervisor.process.is_none());
}
