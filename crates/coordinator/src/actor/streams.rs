//! The chunks of attempts that are under way, and who follows them.
//!
//! Each task with chunks or followers has one list that all its followers read, each at its own pace: nothing
//! waits for a follower, and nothing is kept for one. The list has the chunks of the task's last attempt.
//! Those of an attempt that succeeded go to the journal with its outcome; those of a failed one stay until
//! the next attempt starts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use levelflow_common::chunk::{TaskEnd, pack};
use levelflow_common::limits::{
    MAX_CHUNK_BYTES, MAX_RUN_STREAM_BYTES, MAX_STREAM_BYTES, MAX_STREAM_CHUNKS,
};
use levelflow_common::{ChunkCursor, Code, Failure, FencingToken, RunId};
use levelflow_engine::chunk::{AttemptPlace, FollowedTask};
use levelflow_engine::record::RecordedStream;
use levelflow_engine::{Engine, Entry, RunNumber, TaskIndex};
use levelflow_proto::v1;
use tokio::sync::watch;

/// The streamed output of a task, as its followers see it.
#[derive(Debug, Default)]
pub(crate) struct TaskStream {
    /// The last attempt that started.
    pub(crate) attempt: Option<AttemptStream>,
    /// How far the attempt before it came: those chunks are gone.
    pub(crate) before: Option<ChunkCursor>,
    /// How the task ended, once that is durable. Nothing changes after that.
    pub(crate) end: Option<TaskEnd>,
}

/// The chunks of an attempt.
#[derive(Debug)]
pub(crate) struct AttemptStream {
    pub(crate) stream: FencingToken,
    pub(crate) attempt: u32,
    pub(crate) chunks: Vec<Bytes>,
    bytes: usize,
    /// There were more than there may be: what came is forgotten, and the attempt fails.
    is_over: bool,
}

/// All that is kept of the chunks of open runs.
#[derive(Default)]
pub(crate) struct Streams {
    runs: BTreeMap<RunNumber, RunStreams>,
    /// The batches that are being committed, the oldest first, with the tasks whose ends are in them.
    committing: VecDeque<Vec<(RunNumber, TaskIndex, TaskEnd)>>,
}

struct RunStreams {
    run_id: RunId,
    tasks: BTreeMap<TaskIndex, watch::Sender<TaskStream>>,
    /// Bytes of the chunks of all of them.
    bytes: usize,
}

/// The chunks of an attempt are over a limit.
pub(crate) struct TooLarge;

impl AttemptStream {
    fn new(stream: FencingToken, attempt: u32) -> Self {
        Self {
            stream,
            attempt,
            chunks: Vec::new(),
            bytes: 0,
            is_over: false,
        }
    }

    /// Bytes, and number of chunks.
    fn size(&self) -> (usize, usize) {
        (self.bytes, self.chunks.len())
    }
}

impl TaskStream {
    /// Another attempt starts. Gives the bytes that were freed.
    fn start(&mut self, stream: FencingToken, attempt: u32) -> usize {
        let started = AttemptStream::new(stream, attempt);
        let Some(last) = self.attempt.replace(started) else {
            return 0;
        };
        self.before = Some(ChunkCursor {
            stream: last.stream,
            chunks: last.chunks.len() as u32,
        });
        last.bytes
    }
}

impl RunStreams {
    fn task(&mut self, task: TaskIndex) -> &watch::Sender<TaskStream> {
        self.tasks.entry(task).or_default()
    }
}

impl Streams {
    fn run(&mut self, run: RunNumber, run_id: RunId) -> &mut RunStreams {
        self.runs.entry(run).or_insert_with(|| RunStreams {
            run_id,
            tasks: BTreeMap::new(),
            bytes: 0,
        })
    }

    /// An attempt is sent to a worker.
    pub(crate) fn started(
        &mut self,
        run: RunNumber,
        task: TaskIndex,
        token: FencingToken,
        attempt: u32,
    ) {
        if let Some(streams) = self.runs.get_mut(&run)
            && let Some(stream) = streams.tasks.get(&task)
        {
            stream.send_modify(|stream| streams.bytes -= stream.start(token, attempt));
        }
    }

    /// Takes in chunks of one attempt, in their order. Those that are known came again after a reconnect. Says
    /// whether these are the first of the task.
    pub(crate) fn add(
        &mut self,
        place: AttemptPlace,
        token: FencingToken,
        chunks: &[v1::Chunk],
    ) -> Result<bool, TooLarge> {
        let run = self.run(place.run, place.run_id);
        let mut in_run = run.bytes;
        let mut is_over = false;
        let mut is_first = false;
        run.task(place.task).send_if_modified(|stream| {
            is_first = stream.before.is_none();
            if stream.attempt.as_ref().map(|it| it.stream) != Some(token) {
                in_run -= stream.start(token, place.attempt);
            }
            let Some(attempt) = &mut stream.attempt else {
                return false;
            };
            if attempt.is_over {
                return false;
            }
            let known = attempt.chunks.len();
            is_first &= known == 0;
            for chunk in chunks {
                // One after a gap says that the worker is broken, and the count of its outcome will not fit.
                if chunk.index as usize != attempt.chunks.len() {
                    continue;
                }
                let size = chunk.data.len();
                if size > MAX_CHUNK_BYTES
                    || attempt.chunks.len() == MAX_STREAM_CHUNKS
                    || attempt.bytes + size > MAX_STREAM_BYTES
                    || in_run + size > MAX_RUN_STREAM_BYTES
                {
                    in_run -= std::mem::take(&mut attempt.bytes);
                    attempt.chunks = Vec::new();
                    attempt.is_over = true;
                    is_over = true;
                    return false;
                }
                attempt.bytes += size;
                in_run += size;
                // A copy, so that it does not keep all that was received with it.
                attempt.chunks.push(Bytes::copy_from_slice(&chunk.data));
            }
            attempt.chunks.len() > known
        });
        run.bytes = in_run;
        if is_over { Err(TooLarge) } else { Ok(is_first) }
    }

    /// The chunks of an attempt that ended, for the journal.
    ///
    /// # Errors
    /// When there were too many, or some did not come.
    pub(crate) fn recorded(
        &self,
        place: AttemptPlace,
        token: FencingToken,
        count: u32,
    ) -> Result<Box<RecordedStream>, Failure> {
        let stream = self
            .runs
            .get(&place.run)
            .and_then(|run| run.tasks.get(&place.task));
        let stream = stream.map(|stream| stream.borrow());
        let attempt = stream.as_ref().and_then(|stream| stream.attempt.as_ref());
        match attempt.filter(|attempt| attempt.stream == token) {
            Some(attempt) if attempt.is_over => Err(Failure::permanent(
                Code::StreamTooLarge,
                format!(
                    "the chunks of the attempt are over a limit: {MAX_CHUNK_BYTES} bytes each, \
                     {MAX_STREAM_CHUNKS} or {MAX_STREAM_BYTES} bytes in one attempt, \
                     {MAX_RUN_STREAM_BYTES} bytes in all attempts that the run has under way"
                ),
            )),
            Some(attempt) if attempt.chunks.len() == count as usize => {
                Ok(Box::new(RecordedStream {
                    stream: token,
                    chunks: count,
                    packed: pack(&attempt.chunks),
                }))
            }
            attempt => {
                let came = attempt.map_or(0, |attempt| attempt.chunks.len());
                Err(Failure::retryable(
                    Code::StreamBroken,
                    format!("{came} of {count} chunks came from the worker"),
                ))
            }
        }
    }

    /// Follows a task; none if it has ended and what there is of it is in the store.
    pub(crate) fn follow(
        &mut self,
        run_id: RunId,
        task: &FollowedTask,
    ) -> Option<watch::Receiver<TaskStream>> {
        let known = self.runs.get(&task.run);
        if let Some(stream) = known.and_then(|run| run.tasks.get(&task.task)) {
            return Some(stream.subscribe());
        }
        if task.ended {
            return None;
        }
        let attempt = task
            .attempt
            .map(|(token, number)| AttemptStream::new(token, number));
        let (stream, follower) = watch::channel(TaskStream {
            attempt,
            ..TaskStream::default()
        });
        self.run(task.run, run_id).tasks.insert(task.task, stream);
        Some(follower)
    }

    /// The tasks of a run that give chunks, or may.
    pub(crate) fn tasks_of(&self, run: RunNumber) -> impl Iterator<Item = TaskIndex> {
        let run = self.runs.get(&run).into_iter();
        run.flat_map(|run| run.tasks.keys().copied())
    }

    /// A batch is being committed: notes the ends of tasks that are in it.
    pub(crate) fn commit(&mut self, entries: &[Entry], engine: &Engine) {
        let mut ends = Vec::new();
        if !self.runs.is_empty() {
            for entry in entries {
                if let Some(run) = self.runs.get_mut(&entry.run) {
                    run.note_ends(entry.run, engine, &mut ends);
                }
            }
        }
        self.committing.push_back(ends);
    }

    /// The oldest batch is durable: tells followers of the ends in it.
    pub(crate) fn committed(&mut self) {
        for (number, task, end) in self.committing.pop_front().unwrap_or_default() {
            let Some(run) = self.runs.get_mut(&number) else {
                continue;
            };
            if let Some(stream) = run.tasks.remove(&task) {
                let attempt = stream.borrow().attempt.as_ref().map(AttemptStream::size);
                let (bytes, chunks) = attempt.unwrap_or_default();
                run.bytes -= bytes;
                // The chunks of a result that no attempt here gave, such as one from the cache, are in the
                // journal: without the end, followers look there.
                if end.chunks == 0 || end.chunks as usize == chunks {
                    stream.send_modify(|stream| stream.end = Some(end));
                }
            }
            if run.tasks.is_empty() {
                self.runs.remove(&number);
            }
        }
    }

    /// The run has ended, and its followers were told.
    pub(crate) fn ended(&mut self, run: RunNumber) {
        self.runs.remove(&run);
    }

    /// Drops everything: followers come back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl RunStreams {
    fn note_ends(
        &mut self,
        number: RunNumber,
        engine: &Engine,
        ends: &mut Vec<(RunNumber, TaskIndex, TaskEnd)>,
    ) {
        let run_id = self.run_id;
        self.tasks.retain(|&task, stream| {
            if let Some(end) = engine.task_end(run_id, task) {
                ends.push((number, task, end));
                return true;
            }
            // Whoever follows again makes it anew.
            let is_empty = |stream: &TaskStream| {
                let attempt = stream.attempt.as_ref();
                attempt.is_none_or(|attempt| attempt.chunks.is_empty() && !attempt.is_over)
            };
            stream.receiver_count() > 0 || !is_empty(&stream.borrow())
        });
    }
}

#[cfg(test)]
mod tests {
    use levelflow_common::chunk::unpack;

    use super::*;

    const TOKEN: FencingToken = FencingToken(7);

    fn place(attempt: u32) -> AttemptPlace {
        AttemptPlace {
            run_id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            run: RunNumber(1),
            task: TaskIndex(0),
            attempt,
        }
    }

    fn follow(streams: &mut Streams) -> watch::Receiver<TaskStream> {
        let task = FollowedTask {
            run: RunNumber(1),
            task: TaskIndex(0),
            ended: false,
            after: levelflow_engine::BatchNumber(0),
            attempt: None,
        };
        streams.follow(place(1).run_id, &task).unwrap()
    }

    fn chunks(range: std::ops::Range<u32>) -> Vec<v1::Chunk> {
        let chunk = |index: u32| v1::Chunk {
            token: TOKEN.0,
            index,
            data: index.to_string().into(),
        };
        range.map(chunk).collect()
    }

    fn known(follower: &watch::Receiver<TaskStream>) -> usize {
        let stream = follower.borrow();
        stream.attempt.as_ref().map_or(0, |it| it.chunks.len())
    }

    #[test]
    fn chunks_that_come_again_are_known() {
        let mut streams = Streams::default();
        let mut follower = follow(&mut streams);
        assert!(streams.add(place(1), TOKEN, &chunks(0..3)).is_ok());
        assert!(streams.add(place(1), TOKEN, &chunks(0..5)).is_ok());
        assert_eq!(known(&follower), 5);
        follower.mark_unchanged();
        assert!(streams.add(place(1), TOKEN, &chunks(0..5)).is_ok());
        assert!(!follower.has_changed().unwrap());
        let recorded = streams.recorded(place(1), TOKEN, 5).unwrap();
        let expected: Vec<_> = chunks(0..5).into_iter().map(|chunk| chunk.data).collect();
        assert_eq!(unpack(recorded.packed), Some(expected));
        assert_eq!(streams.runs[&RunNumber(1)].bytes, 5);
    }

    #[test]
    fn chunks_after_a_gap_are_not_taken_and_the_outcome_does_not_fit() {
        let mut streams = Streams::default();
        assert!(streams.add(place(1), TOKEN, &chunks(0..2)).is_ok());
        assert!(streams.add(place(1), TOKEN, &chunks(3..4)).is_ok());
        let failure = streams.recorded(place(1), TOKEN, 4).unwrap_err();
        assert_eq!(failure.code, Code::StreamBroken);
        assert_eq!(failure.message, "2 of 4 chunks came from the worker");
        assert!(streams.recorded(place(1), FencingToken(8), 2).is_err());
    }

    #[test]
    fn another_attempt_takes_the_place_of_the_one_before() {
        let mut streams = Streams::default();
        let follower = follow(&mut streams);
        assert!(streams.add(place(1), TOKEN, &chunks(0..3)).is_ok());
        let next = FencingToken(9);
        streams.started(RunNumber(1), TaskIndex(0), next, 2);
        let stream = follower.borrow();
        let gone = ChunkCursor {
            stream: TOKEN,
            chunks: 3,
        };
        assert_eq!(stream.before, Some(gone));
        let attempt = stream.attempt.as_ref().unwrap();
        assert_eq!((attempt.stream, attempt.attempt), (next, 2));
        assert!(attempt.chunks.is_empty());
        assert_eq!(streams.runs[&RunNumber(1)].bytes, 0);
    }

    #[test]
    fn an_attempt_over_a_limit_fails_and_what_it_gave_is_forgotten() {
        let mut streams = Streams::default();
        let follower = follow(&mut streams);
        let large = |index| v1::Chunk {
            token: TOKEN.0,
            index,
            data: vec![b'1'; MAX_CHUNK_BYTES].into(),
        };
        let fit = (MAX_STREAM_BYTES / MAX_CHUNK_BYTES) as u32;
        for index in 0..fit {
            assert!(streams.add(place(1), TOKEN, &[large(index)]).is_ok());
        }
        assert!(streams.add(place(1), TOKEN, &[large(fit)]).is_err());
        assert!(streams.add(place(1), TOKEN, &[large(0)]).is_ok());
        assert_eq!(known(&follower), 0);
        assert_eq!(streams.runs[&RunNumber(1)].bytes, 0);
        let failure = streams.recorded(place(1), TOKEN, fit).unwrap_err();
        assert_eq!(failure.code, Code::StreamTooLarge);
        assert!(!failure.retryable);

        let too_long = v1::Chunk {
            data: vec![b'1'; MAX_CHUNK_BYTES + 1].into(),
            ..large(0)
        };
        assert!(streams.add(place(2), FencingToken(8), &[too_long]).is_err());
    }
}
