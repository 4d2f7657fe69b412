//! What a workflow says of the result cache.

use super::{Check, Names, list};
use crate::document::decode::decode;
use crate::document::path::Path;
use crate::document::tree::Node;
use crate::duration::HumanDuration;
use crate::expression::has_expression;
use crate::limits::{MAX_CACHE_TAG_BYTES, MAX_CACHE_TAGS, MAX_PREFETCH};
use crate::similar::DEFAULT_REUSE;
use crate::suggest::did_you_mean;

impl<'n> Check<'_, 'n> {
    /// What may be cached.
    pub(super) fn cache(&mut self, policy: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        if let Some(key) = policy.get("key") {
            self.expressions(key, names, &path.key("key"));
        }
        if let Some(semantic) = policy.get("semantic") {
            self.semantic(semantic, names, &path.key("semantic"));
        }
        for name in ["ttl", "on_error"] {
            if let Some(span) = policy.get(name)
                && decode::<HumanDuration>(span).is_ok_and(|it| it.0.is_zero())
            {
                self.report.add(&path.key(name), span.position, || {
                    (format!("`{name}` must be longer than nothing"), None)
                });
            }
        }
        let tags = list(policy.get("tags"));
        if tags.len() > MAX_CACHE_TAGS {
            self.report.add(&path.key("tags"), tags[0].position, || {
                let message = format!(
                    "there are {} tags; the most is {MAX_CACHE_TAGS}",
                    tags.len()
                );
                (message, None)
            });
        }
        let version = policy
            .get("version")
            .map(|version| (path.key("version"), version));
        let tags_path = path.key("tags");
        let tags = (0..)
            .zip(tags)
            .map(|(place, tag)| (tags_path.index(place), tag));
        for (path, node) in version.into_iter().chain(tags) {
            let bytes = node.as_text().map_or(1, str::len);
            if !(1..=MAX_CACHE_TAG_BYTES).contains(&bytes) {
                self.report.add(&path, node.position, || {
                    let message =
                        format!("is {bytes} bytes long; it may be 1 to {MAX_CACHE_TAG_BYTES}");
                    (message, None)
                });
            }
        }
    }

    /// What may be used again by a text that means nearly the same.
    fn semantic(&mut self, policy: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        if let Some(text) = policy.get("text") {
            let path = path.key("text");
            self.expressions(text, names, &path);
            if text.as_text().is_some_and(|text| !has_expression(text)) {
                self.report.add(&path, text.position, || {
                    let help =
                        "write what differs from run to run, such as `${{ inputs.question }}`";
                    (
                        "`text` is the same in every run".to_owned(),
                        Some(help.to_owned()),
                    )
                });
            }
        }
        if let Some(model) = policy.get("model")
            && model.as_text().is_some_and(str::is_empty)
        {
            self.report.add(&path.key("model"), model.position, || {
                ("`model` is empty".to_owned(), None)
            });
        }
        let bound = |name: &str| decode::<f64>(policy.get(name)?).ok();
        let reuse = bound("reuse").unwrap_or(DEFAULT_REUSE);
        if let (Some(near), Some(node)) = (bound("near"), policy.get("near"))
            && near > reuse
        {
            self.report.add(&path.key("near"), node.position, || {
                let message = format!("`near` is {near}, above `reuse`, {reuse}");
                let help = "what is at least as near as `reuse` is reused, what is nearer than `near` is shown";
                (message, Some(help.to_owned()))
            });
        }
    }

    /// The runs whose results are computed ahead.
    pub(super) fn prefetch(&mut self, root: &Node<'_>) {
        let path = Path::ROOT.key("prefetch");
        let wanted = list(root.get("prefetch"));
        if wanted.len() > MAX_PREFETCH {
            self.report.add(&path, wanted[0].position, || {
                let message = format!("there are {}; the most is {MAX_PREFETCH}", wanted.len());
                (message, None)
            });
        }
        let names = Names {
            item: None,
            to: None,
            secrets: false,
            near_hit: false,
        };
        for (place, inputs) in wanted.iter().enumerate() {
            let path = path.index(place);
            for (name, value) in inputs.as_map().unwrap_or_default() {
                let path = path.key(&name.text);
                if !self.inputs.contains(&&*name.text) {
                    let known = self.inputs.iter().copied();
                    let help = did_you_mean(&name.text, known);
                    self.report.add(&path, name.position, || {
                        (format!("the workflow has no input `{}`", name.text), help)
                    });
                }
                self.expressions(value, names, &path);
            }
        }
    }
}
