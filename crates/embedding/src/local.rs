//! Sentence-embedding models of the BERT kind that run in this process, such as all-MiniLM-L6-v2.
//!
//! The vector of a text is the mean of those of its tokens. Inference has threads of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::Tokenizer;
use tokio::sync::oneshot;

use crate::embedder::Embedder;
use crate::error::{EmbeddingError, StartError};
use crate::vector::Vector;

/// Bytes of the weights of a model.
const MAX_WEIGHT_BYTES: u64 = 2 << 30;

/// A model that runs in this process.
pub(crate) struct Local {
    model: Arc<Model>,
    threads: ThreadPool,
}

struct Model {
    bert: BertModel,
    tokenizer: Tokenizer,
    /// The most tokens of a text.
    max_tokens: usize,
}

/// What models are trained for may be shorter than what they can take in.
#[derive(Default, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

impl Local {
    /// Reads a model from a directory with `config.json`, `tokenizer.json` and `model.safetensors`.
    pub(crate) fn open(directory: &Path, threads: usize) -> Result<Self, StartError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("embedding-{number}"))
            .build()
            .map_err(|error| StartError::Threads(error.into()))?;
        let model = Arc::new(Model::read(directory)?);
        Ok(Self { model, threads })
    }
}

#[async_trait]
impl Embedder for Local {
    async fn embed(&self, texts: &[Arc<str>]) -> Result<Vec<Option<Vector>>, EmbeddingError> {
        let (reply, answer) = oneshot::channel();
        let model = Arc::clone(&self.model);
        let texts = texts.to_vec();
        self.threads.spawn_fifo(move || {
            // Nobody waits any more for what took too long.
            if !reply.is_closed() {
                let _ = reply.send(model.embed(&texts));
            }
        });
        answer.await.map_err(|_| EmbeddingError::Gone)?
    }
}

impl Model {
    fn read(directory: &Path) -> Result<Self, StartError> {
        let config: Config = read_json(directory.join("config.json"))?;
        let sentences = directory.join("sentence_bert_config.json");
        let sentences: SentenceConfig = match sentences.exists() {
            true => read_json(sentences)?,
            false => SentenceConfig::default(),
        };
        let path = directory.join("tokenizer.json");
        let mut tokenizer =
            Tokenizer::from_bytes(read(&path)?).map_err(|source| malformed(path, source))?;
        // A text that is cut would be as near as can be to all that begin with the same.
        tokenizer
            .with_truncation(None)
            .map_err(|source| malformed(directory.join("tokenizer.json"), source))?
            .with_padding(None);
        let path = directory.join("model.safetensors");
        let (weights, device) = (read(&path)?, Device::Cpu);
        let bert = VarBuilder::from_buffered_safetensors(weights, DType::F32, &device)
            .and_then(|weights| BertModel::load(weights, &config))
            .map_err(|source| malformed(path, source))?;
        let max_tokens = sentences.max_seq_length.unwrap_or(usize::MAX);
        Ok(Self {
            bert,
            tokenizer,
            max_tokens: max_tokens.min(config.max_position_embeddings),
        })
    }

    /// Texts are computed one by one, without padding: the vector of a text does not depend on its batch.
    fn embed(&self, texts: &[Arc<str>]) -> Result<Vec<Option<Vector>>, EmbeddingError> {
        texts.iter().map(|text| self.embed_one(text)).collect()
    }

    fn embed_one(&self, text: &str) -> Result<Option<Vector>, EmbeddingError> {
        let tokens = self
            .tokenizer
            .encode(text, true)
            .map_err(EmbeddingError::Model)?;
        if tokens.len() > self.max_tokens {
            return Ok(None);
        }
        let mean = || -> candle_core::Result<Vec<f32>> {
            let ids = Tensor::new(tokens.get_ids(), &self.bert.device)?.unsqueeze(0)?;
            let types = ids.zeros_like()?;
            let hidden = self.bert.forward(&ids, &types, None)?;
            hidden.mean(1)?.squeeze(0)?.to_vec1()
        };
        let numbers = mean().map_err(|error| EmbeddingError::Model(error.into()))?;
        Ok(Vector::new(numbers))
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StartError> {
    let unreadable = |source| StartError::Unreadable {
        path: path.clone(),
        source,
    };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_WEIGHT_BYTES {
        return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(unreadable)
}

fn read_json<T: DeserializeOwned>(path: PathBuf) -> Result<T, StartError> {
    serde_json::from_slice(&read(&path)?).map_err(|source| malformed(path, source))
}

fn malformed(
    path: PathBuf,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StartError {
    StartError::Malformed {
        path,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names the directory of all-MiniLM-L6-v2.
    const VARIABLE: &str = "TEST_EMBEDDING_MODEL";

    #[tokio::test]
    async fn texts_that_mean_the_same_are_near_and_others_are_not() {
        let Some(directory) = std::env::var_os(VARIABLE) else {
            panic!("{VARIABLE} is not set: run the tests with `cargo xtask test`");
        };
        let local = Local::open(Path::new(&directory), 1).unwrap();
        let texts: [Arc<str>; 5] = [
            "The weather is lovely today.",
            "It's so sunny outside!",
            "He drove to the stadium.",
            "How do I reset my password?",
            "How can I reset my password?",
        ]
        .map(Into::into);
        let vectors = local.embed(&texts).await.unwrap();
        let vector = |place: usize| vectors[place].as_ref().unwrap();
        assert_eq!(vector(0).dimensions(), 384);
        let similarity = |one: usize, two: usize| vector(one).similarity(vector(two)).unwrap();
        // As the documentation of sentence-transformers gives them for this model.
        for (one, two, expected) in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
            let found = similarity(one, two);
            assert!((found - expected).abs() < 0.0005, "{found} {expected}");
        }
        assert!(similarity(3, 4) > 0.95, "{}", similarity(3, 4));
        assert!(similarity(0, 3) < 0.2, "{}", similarity(0, 3));
        let again = local.embed(&texts[..1]).await.unwrap();
        assert_eq!(again[0].as_ref(), Some(vector(0)));
        let long = "word ".repeat(1000).into();
        assert_eq!(local.embed(&[long]).await.unwrap(), [None]);
    }

    #[test]
    fn a_directory_without_a_model_is_refused_with_the_file() {
        let error = Local::open(Path::new("/no/such/model"), 1).err().unwrap();
        assert_eq!(error.to_string(), "cannot read /no/such/model/config.json");
        assert_eq!(error.code(), levelflow_common::Code::ConfigInvalid);
    }
}
