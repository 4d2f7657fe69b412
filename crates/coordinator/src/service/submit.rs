//! From a submit request to what the engine is told.

use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::inputs;
use levelflow_common::limits::{MAX_KEY_BYTES, MAX_LABELS, MAX_NAME_BYTES};
use levelflow_common::workflow::{Durability, Priority};
use levelflow_common::{CacheUse, Code, Protection, RunId};
use levelflow_engine::record::SubmitKey;
use levelflow_engine::{Definition, Submitted};
use levelflow_proto::{ApiError, Enumeration as _, FieldViolation, v1};
use uuid::Uuid;

use super::{Backend, refused, store_error};
use crate::actor::{Accepted, Message, SubmitReply};
use crate::cluster::Peer;

/// The tenant of requests that name none.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// A checked request.
pub(crate) enum Checked {
    /// Something for the engine.
    New(Box<Submitted>, Arc<Definition>),
    /// The store knows the run already.
    Existing(RunId, Arc<Definition>),
}

impl Backend {
    pub(crate) async fn submit(
        &self,
        mut request: v1::SubmitWorkflowRequest,
    ) -> Result<v1::SubmitWorkflowResponse, ApiError> {
        if !self.cluster.is_shared() {
            return self.submit_here(request).await;
        }
        let is_keyed = !request.idempotency_key.is_empty() || request.deduplicate;
        if !is_keyed && !self.cluster.has_any() {
            // It goes to another coordinator, perhaps twice: one that does not answer may have taken it.
            request.idempotency_key = format!("levelflow-forwarded-{}", Uuid::now_v7());
        }
        let run_id = match self.check_submit(request.clone()).await? {
            Checked::Existing(run_id, definition) => {
                let existing = true;
                return Ok(response(Accepted { run_id, existing }, &definition));
            }
            Checked::New(submitted, _) => submitted.run_id,
        };
        let shard = self.cluster.shard_of(run_id);
        let here = || self.submit_here(request.clone());
        let there = |peer: Peer| {
            let request = request.clone();
            async move { peer.submit(request).await }
        };
        self.cluster.at(shard, here, there).await
    }

    async fn submit_here(
        &self,
        request: v1::SubmitWorkflowRequest,
    ) -> Result<v1::SubmitWorkflowResponse, ApiError> {
        let (accepted, definition) = match self.check_submit(request).await? {
            Checked::Existing(run_id, definition) => {
                let existing = true;
                (Accepted { run_id, existing }, definition)
            }
            Checked::New(submitted, definition) => {
                let accepted = self.submit_new(submitted, definition.clone()).await?;
                (accepted, definition)
            }
        };
        Ok(response(accepted, &definition))
    }

    pub(crate) async fn submit_new(
        &self,
        submitted: Box<Submitted>,
        definition: Arc<Definition>,
    ) -> Result<Accepted, ApiError> {
        self.ask(|reply| Message::Submit {
            submitted,
            definition,
            reply: SubmitReply::One(reply),
        })
        .await?
        .map_err(|why| refused(&why))
    }

    pub(crate) async fn check_submit(
        &self,
        request: v1::SubmitWorkflowRequest,
    ) -> Result<Checked, ApiError> {
        let priority = Priority::optional("priority", request.priority)?;
        let durability = Durability::optional("durability", request.durability)?;
        let cache = CacheUse::optional("cache", request.cache)?;
        let definition = self.read_source(request.workflow).await?;
        let workflow = &definition.workflow;
        let inputs = bind_inputs(&definition, &request.inputs)?;
        let mut labels = workflow.labels.clone();
        labels.extend(request.labels);
        if labels.len() > MAX_LABELS {
            let message = format!("{} labels; the limit is {MAX_LABELS}", labels.len());
            return Err(invalid("labels", message));
        }
        if request.idempotency_key.len() > MAX_KEY_BYTES {
            let message = format!(
                "{} bytes; the limit is {MAX_KEY_BYTES}",
                request.idempotency_key.len()
            );
            return Err(invalid("idempotency_key", message));
        }
        if request.tenant.len() > MAX_NAME_BYTES {
            let message = format!(
                "{} bytes; the limit is {MAX_NAME_BYTES}",
                request.tenant.len()
            );
            return Err(invalid("tenant", message));
        }
        for (field, text) in [
            ("idempotency_key", &request.idempotency_key),
            ("tenant", &request.tenant),
        ] {
            if text.contains(char::is_control) {
                let message = "may not have control characters".to_owned();
                return Err(invalid(field, message));
            }
        }
        let tenant: Arc<str> = match request.tenant.as_str() {
            "" => DEFAULT_TENANT.into(),
            tenant => tenant.into(),
        };
        let key = self.submit_key(
            &definition,
            &inputs,
            &request.idempotency_key,
            request.deduplicate,
        );
        if let Some(key) = &key
            && Protection::KnownKey.holds()
            && let Some(run_id) = self.find_key(&tenant, key).await?
        {
            return Ok(Checked::Existing(run_id, definition));
        }
        let submitted = Submitted {
            run_id: self
                .cluster
                .new_run(&tenant, key.as_ref().map(|key| &*key.key)),
            digest: definition.digest,
            workflow: definition.name.clone(),
            tenant,
            priority: priority.unwrap_or(workflow.priority),
            durability: durability.unwrap_or(workflow.durability),
            cache: cache.unwrap_or_default(),
            labels,
            inputs,
            key,
            resumed_from: None,
            kept: Vec::new(),
        };
        Ok(Checked::New(Box::new(submitted), definition))
    }

    fn submit_key(
        &self,
        definition: &Definition,
        inputs: &[u8],
        idempotency_key: &str,
        deduplicate: bool,
    ) -> Option<SubmitKey> {
        if idempotency_key.is_empty() && !deduplicate {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(definition.digest.as_bytes());
        hasher.update(inputs);
        let content = hasher.finalize();
        Some(if idempotency_key.is_empty() {
            let expires_at = self.clock.now().saturating_add(self.dedup_window);
            SubmitKey {
                // Clients cannot send control characters here, so this never meets a key of theirs.
                key: format!("\u{1}{}", content.to_hex()).into(),
                content: *content.as_bytes(),
                expires_at: Some(expires_at),
            }
        } else {
            SubmitKey {
                key: idempotency_key.into(),
                content: *content.as_bytes(),
                expires_at: None,
            }
        })
    }

    /// Runs that have ended are known to the store only.
    async fn find_key(&self, tenant: &str, key: &SubmitKey) -> Result<Option<RunId>, ApiError> {
        let known = self
            .store
            .find_key(tenant, &key.key, self.clock.now())
            .await
            .map_err(store_error)?;
        match known {
            Some(known) if known.content == key.content => Ok(Some(known.run_id)),
            Some(known) => Err(ApiError::new(
                Code::KeyReused,
                levelflow_engine::Rejection::KeyReused {
                    run_id: known.run_id,
                }
                .to_string(),
            )),
            None => Ok(None),
        }
    }
}

pub(crate) fn response(accepted: Accepted, definition: &Definition) -> v1::SubmitWorkflowResponse {
    v1::SubmitWorkflowResponse {
        run_id: accepted.run_id.to_string(),
        existing: accepted.existing,
        workflow_digest: Bytes::copy_from_slice(definition.digest.as_bytes()),
    }
}

pub(crate) fn bind_inputs(definition: &Definition, given: &[u8]) -> Result<Bytes, ApiError> {
    let workflow = &definition.workflow;
    if workflow.inputs.is_empty() && matches!(given, b"" | b"{}") {
        return Ok(Bytes::from_static(b"{}"));
    }
    let given = if given.is_empty() { b"{}" } else { given };
    inputs::bind_json(workflow, given).map_err(|problems| {
        let message = match &problems[..] {
            [problem] => problem.message.clone(),
            [problem, ..] => format!(
                "{} (and {} more problems)",
                problem.message,
                problems.len() - 1
            ),
            [] => String::new(),
        };
        let mut error = ApiError::new(Code::InputInvalid, message);
        error.violations = problems
            .into_iter()
            .map(|problem| {
                FieldViolation::new(format!("inputs.{}", problem.field), problem.message)
            })
            .collect();
        error
    })
}

fn invalid(field: &str, message: String) -> ApiError {
    let mut error = ApiError::new(Code::RequestInvalid, format!("`{field}`: {message}"));
    error.violations = vec![FieldViolation::new(field, message)];
    error
}
