//! The JSON of `POST /api/inject/v1`, in the form that is widespread.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A message for each of its recipients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    pub envelope_sender: String,
    pub content: Content,
    pub recipients: Vec<Recipient>,
    #[serde(default)]
    pub substitutions: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub template_dialect: Option<Dialect>,
    /// Accepted and without effect: a message is on disk before it is counted as a success.
    #[serde(default, rename = "deferred_spool")]
    pub _deferred_spool: bool,
    #[serde(default)]
    pub deferred_generation: bool,
    #[serde(default)]
    pub trace_headers: TraceHeaders,
    /// Ours: the queue's parts.
    #[serde(default)]
    pub tenant: String,
    #[serde(default)]
    pub campaign: String,
}

/// A whole message, or its parts.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a message as text, or an object with text_body, html_body, subject, from ...")]
pub enum Content {
    Whole(String),
    Parts(Box<Parts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parts {
    pub text_body: Option<String>,
    pub html_body: Option<String>,
    pub amp_html_body: Option<String>,
    pub attachments: Vec<Attachment>,
    pub headers: BTreeMap<String, String>,
    pub subject: Option<String>,
    pub from: Option<Mailbox>,
    pub reply_to: Option<Mailbox>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub data: String,
    pub content_type: String,
    #[serde(default)]
    pub content_id: Option<String>,
    #[serde(default)]
    pub file_name: Option<String>,
    /// `data` is base64.
    #[serde(default)]
    pub base64: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mailbox {
    pub email: String,
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    pub email: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub substitutions: serde_json::Map<String, serde_json::Value>,
    /// Kept with the message and given in its events.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Dialect {
    Jinja,
    Static,
    Handlebars,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceHeaders {
    pub received_header: bool,
    /// Accepted and without effect: events carry what it would.
    #[serde(rename = "supplemental_header")]
    pub _supplemental_header: bool,
    #[serde(rename = "header_name")]
    pub _header_name: String,
    #[serde(rename = "include_meta_names")]
    pub _include_meta_names: Vec<String>,
}

/// What became of the recipients. Some may fail while others succeed.
#[derive(Debug, Default, Serialize)]
pub struct Answer {
    pub success_count: usize,
    pub fail_count: usize,
    pub failed_recipients: Vec<String>,
    pub errors: Vec<String>,
}
