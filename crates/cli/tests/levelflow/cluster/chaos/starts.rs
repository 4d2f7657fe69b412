//! What tasks leave behind when they start: `http` tasks call a server of the test, handlers are functions of it,
//! programs write lines.
//!
//! Each start gets a mark that no other has, and gives it back as its output. Tasks are given the marks of those
//! that they need, so that it can be told later whose result a task was started on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use levelflow_common::event::TaskRef;
use levelflow_common::{HumanDuration, Timestamp};
use levelflow_worker::{Context, HandlerError, Worker, WorkerBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Home, text};

/// One start of a task.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) run_id: String,
    pub(crate) task: String,
    pub(crate) item: Option<u32>,
    /// Its number, where the task can tell.
    pub(crate) attempt: Option<u32>,
    /// What it gives back.
    pub(crate) mark: String,
    /// The marks that it was given.
    pub(crate) needs: Vec<String>,
    /// What it was asked for.
    pub(crate) input: String,
    pub(crate) at: Timestamp,
    /// When it was answered, with whatever; none if that is not known.
    pub(crate) answered_at: Option<Timestamp>,
}

impl Start {
    pub(crate) fn key(&self) -> (&str, &str, Option<u32>) {
        (&self.run_id, &self.task, self.item)
    }

    pub(crate) fn task_ref(&self) -> TaskRef {
        TaskRef {
            task_id: self.task.as_str().into(),
            item: self.item,
        }
    }

    pub(crate) fn is_of(&self, run_id: &str, task: &TaskRef) -> bool {
        self.key() == (run_id, &task.task_id, task.item)
    }
}

/// The time as other processes of this machine know it.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.expect("this is after 1970").as_micros();
    Timestamp::from_micros(u64::try_from(micros).expect("this is long before the year 500000"))
}

/// How the server deals with a call.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    /// How many calls of a task it turns down before it answers one.
    pub(crate) turns_down: usize,
    /// How long it takes.
    pub(crate) takes: Duration,
    /// It answers when the gate of this name is open.
    pub(crate) gate: Option<String>,
}

/// A server that `http` tasks call.
pub(crate) struct Starts {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    starts: watch::Sender<Vec<Start>>,
    open: watch::Sender<BTreeSet<String>>,
    /// How often tasks were turned down.
    turned_down: Mutex<BTreeMap<String, usize>>,
}

impl Starts {
    pub(crate) async fn record() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            starts: watch::Sender::new(Vec::new()),
            open: watch::Sender::default(),
            turned_down: Mutex::default(),
        });
        let serving = shared.clone();
        levelflow_runtime::task::spawn("starts", async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let answering = serve(stream, serving.clone());
                levelflow_runtime::task::spawn("connection", answering);
            }
        });
        Self {
            url: format!("http://{address}"),
            shared,
        }
    }

    /// `with` of a task that asks for an input, on the results of other tasks of this kind.
    pub(crate) fn call(&self, input: &str, needs: &[String], manner: &Manner) -> Value {
        json!({
            "url": format!("{}/{input}", self.url),
            "headers": {
                "needs": needs.join(" "),
                "turns-down": manner.turns_down.to_string(),
                "takes": manner.takes.as_millis().to_string(),
                "gate": manner.gate.as_deref().unwrap_or("-"),
            },
        })
    }

    /// `with` of a task for the handler of this name.
    pub(crate) fn handled(&self, name: &str, needs: &[String], manner: &Manner) -> Value {
        let takes = HumanDuration(manner.takes);
        let asked = Asked {
            needs: needs.to_vec(),
            takes,
            turns_down: manner.turns_down,
        };
        json!({ "name": name, "input": asked })
    }

    /// A worker that has the handler of this name in this process.
    pub(crate) fn handler(&self, name: &str) -> WorkerBuilder {
        let shared = self.shared.clone();
        Worker::builder().handler(name, move |context: Context, asked: Asked| {
            let shared = shared.clone();
            async move { handle(&context, asked, &shared).await }
        })
    }

    /// Lets calls through that wait at the gate, and those that come later.
    pub(crate) fn open(&self, gate: &str) {
        self.shared.open.send_modify(|open| {
            open.insert(gate.to_owned());
        });
    }

    /// Waits until the starts satisfy a condition.
    pub(crate) async fn until(&self, what: &str, holds: impl FnMut(&Vec<Start>) -> bool) {
        let mut starts = self.shared.starts.subscribe();
        let reached = timeout(DEADLINE, starts.wait_for(holds)).await;
        reached
            .unwrap_or_else(|_| panic!("not before the deadline: {what}"))
            .unwrap();
    }

    /// All of them until now.
    pub(crate) fn all(&self) -> Vec<Start> {
        self.shared.starts.borrow().clone()
    }
}

/// What a handler is asked for.
#[derive(Serialize, Deserialize)]
struct Asked {
    needs: Vec<String>,
    takes: HumanDuration,
    /// How many attempts it turns down.
    turns_down: usize,
}

/// Works as a server would that is called.
async fn handle(context: &Context, asked: Asked, shared: &Shared) -> Result<Value, HandlerError> {
    let place = shared.begin(Start {
        run_id: context.run_id().to_string(),
        task: context.task_id().to_owned(),
        item: context.item(),
        attempt: Some(context.attempt()),
        mark: String::new(),
        needs: asked.needs,
        input: String::new(),
        at: now(),
        answered_at: None,
    });
    tokio::select! {
        () = tokio::time::sleep(asked.takes.0) => {}
        () = context.cancelled() => return Err(HandlerError::retryable("it is not wanted any more")),
    }
    shared.end(place);
    if context.attempt() as usize <= asked.turns_down {
        return Err(HandlerError::retryable("turned down"));
    }
    Ok(json!({ "body": { "mark": mark(place) } }))
}

/// The mark of the start in this place.
fn mark(place: usize) -> String {
    format!("start-{place}")
}

impl Shared {
    /// Takes in a start, and gives its place.
    fn begin(&self, start: Start) -> usize {
        let mut place = 0;
        self.starts.send_modify(|starts| {
            place = starts.len();
            let mark = mark(place);
            starts.push(Start { mark, ..start });
        });
        place
    }

    /// Remembers when the start in this place was answered.
    fn end(&self, place: usize) {
        self.starts
            .send_modify(|starts| starts[place].answered_at = Some(now()));
    }
}

/// Answers the calls of one connection, which have no bodies.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut request = Vec::new();
    loop {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(request[..end].to_vec()).unwrap();
            request.drain(..end + 4);
            if answer(&head, &mut stream, &shared).await.is_none() {
                return;
            }
        }
    }
}

/// Answers one call. None if the caller has gone.
async fn answer(head: &str, stream: &mut TcpStream, shared: &Shared) -> Option<()> {
    let header = |wanted: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map_or("", |(_, value)| value.trim())
    };
    let input = head.split(' ').nth(1)?.trim_start_matches('/');
    let key = header("idempotency-key").to_owned();
    let mut parts = key.split('/');
    let place = shared.begin(Start {
        run_id: parts.next()?.to_owned(),
        task: parts.next()?.to_owned(),
        item: parts.next().map(|item| item.parse().unwrap()),
        attempt: None,
        mark: String::new(),
        needs: marks(header("needs")),
        input: input.to_owned(),
        at: now(),
        answered_at: None,
    });
    let takes = header("takes").parse().unwrap_or_default();
    let working = async {
        tokio::time::sleep(Duration::from_millis(takes)).await;
        let gate = header("gate").to_owned();
        if gate != "-" {
            let mut open = shared.open.subscribe();
            let _ = open.wait_for(|open| open.contains(&gate)).await;
        }
    };
    let mut byte = [0];
    tokio::select! {
        () = working => {}
        // Nobody sends a second request before the first is answered: this is the end of the connection.
        _ = stream.read(&mut byte) => return None,
    }
    let most: usize = header("turns-down").parse().unwrap_or_default();
    let is_turned_down = {
        let mut turned_down = shared.turned_down.lock().unwrap();
        let before = turned_down.entry(key).or_default();
        *before += 1;
        *before <= most
    };
    let (status, body) = if is_turned_down {
        ("409 Conflict", json!({}))
    } else {
        ("200 OK", json!({ "mark": mark(place) }))
    };
    let body = body.to_string();
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    shared.end(place);
    stream.write_all(response.as_bytes()).await.ok()
}

fn marks(listed: &str) -> Vec<String> {
    listed.split_whitespace().map(str::to_owned).collect()
}

/// The expression for the mark that a task gave.
pub(crate) fn mark_of_task(task: &str) -> String {
    format!("${{{{ tasks.{task}.output.body.mark }}}}")
}

/// Where programs leave their starts.
pub(crate) struct Trace(std::path::PathBuf);

impl Trace {
    pub(crate) fn new(home: &Home) -> Self {
        Self(home.file("starts", ""))
    }

    /// `with` of a program that leaves its start, on the results of other tasks, and takes some time.
    pub(crate) fn program(&self, needs: &[String], takes: Duration) -> Value {
        let script = "at=$(date +%s%N); mark=\"program-$$-$at\"; \
            echo \"$LEVELFLOW_RUN_ID $LEVELFLOW_TASK_ID $LEVELFLOW_ATTEMPT $mark $at $*\" >> \"$TRACE\"; \
            sleep \"$TAKES\"; echo \"{\\\"body\\\":{\\\"mark\\\":\\\"$mark\\\"}}\"";
        let mut command = json!(["sh", "-c", script, "program"]);
        let words = command.as_array_mut().expect("it is a list");
        words.extend(needs.iter().map(|need| json!(need)));
        json!({
            "command": command,
            "env": { "TRACE": text(&self.0), "TAKES": takes.as_secs_f64().to_string() },
            "output": "json",
        })
    }

    /// The starts until now.
    pub(crate) fn all(&self) -> Vec<Start> {
        read(&self.0)
    }
}

fn read(path: &Path) -> Vec<Start> {
    let lines = std::fs::read_to_string(path).unwrap();
    let start = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap().to_owned();
        let (run_id, task, attempt, mark) = (word(), word(), word(), word());
        let nanos: u64 = word().parse().unwrap();
        Start {
            run_id,
            task,
            item: None,
            attempt: Some(attempt.parse().unwrap()),
            mark,
            needs: words
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
                .collect(),
            input: String::new(),
            at: Timestamp::from_micros(nanos / 1000),
            answered_at: None,
        }
    };
    lines.lines().map(start).collect()
}
