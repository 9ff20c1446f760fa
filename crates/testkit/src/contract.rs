//! The contract as a check: of answers, and of the served document.

use crate::Answer;
use jsonschema::{Draft, Validator};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock},
};

const CONTRACT: &str = include_str!("../../../tests/contract/contract.json");
/// Answers that are added to operations of the contract: a submit that creates nothing (`dry_run`).
const ADDED: [(&str, &str, u16); 1] = [("post", "/v1/tasks", 200)];
/// Statuses that any operation may answer, always with the error form.
const ERRORS: [u16; 12] = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503];
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// The contract, ready to check answers.
pub struct Contract {
    document: Value,
    served: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Contract {
    /// The one of this process.
    ///
    /// # Panics
    /// The contract file is broken.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Contract>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| {
            let document = serde_json::from_str(CONTRACT).expect("the contract is JSON");
            let served = serde_json::to_value(fetchml_server::openapi()).expect("the document is JSON");
            Arc::new(Self { document, served, validators: Mutex::default() })
        }))
    }

    /// Checks an answer to `method path`.
    ///
    /// # Panics
    /// It breaks the contract, the error form, or the server's own document.
    pub fn check(&self, method: &Method, path: &str, answer: &Answer) {
        let trace_id = answer.header("x-trace-id");
        assert!(uuid::Uuid::try_parse(trace_id).is_ok(), "{}: X-Trace-Id is {trace_id:?}", answer.asked);
        let is_error = answer.status >= 400 && *method != Method::HEAD;
        if is_error && answer.header("content-type") == "application/json" && !Self::is_unhealthy(path, answer) {
            self.validate("#/components/schemas/ErrorResponse", answer);
            assert_eq!(answer.json()["trace_id"], trace_id, "{}: two trace ids", answer.asked);
            let retry = matches!(answer.status, 429 | 503);
            assert_eq!(retry, answer.header("retry-after").parse::<u64>().is_ok(), "{}: Retry-After", answer.asked);
        } else if is_error {
            assert!(Self::is_unhealthy(path, answer), "{}: an error without the form", answer.asked);
        }
        let lower = if *method == Method::HEAD { "get".to_owned() } else { method.as_str().to_lowercase() };
        if let Some(operation) = operation(&self.served, &lower, path) {
            let documented = operation["responses"].get(answer.status.to_string()).is_some();
            assert!(documented, "{}: our own document does not know {}", answer.asked, answer.status);
        } else {
            assert!(matches!(answer.status, 404 | 405), "{}: an operation nobody documented", answer.asked);
        }
        let Some(operation) = operation(&self.document, &lower, path) else { return };
        let Some(response) = operation["responses"].get(answer.status.to_string()) else {
            let known = ERRORS.contains(&answer.status) || ADDED.contains(&(lower.as_str(), path, answer.status));
            assert!(known, "{}: {} is not in the contract", answer.asked, answer.status);
            return;
        };
        let response = resolve(&self.document, response);
        if let Some(schema) = response.pointer("/content/application~1json/schema") {
            let schema = schema
                .get("$ref")
                .and_then(Value::as_str)
                .map_or_else(|| schema.clone(), |reference| json!({ "$ref": reference }));
            self.validate_value(&schema, answer);
        }
    }

    fn is_unhealthy(path: &str, answer: &Answer) -> bool {
        path == "/health" && answer.status == 503
    }

    fn validate(&self, reference: &str, answer: &Answer) {
        self.validate_value(&json!({ "$ref": reference }), answer);
    }

    fn validate_value(&self, schema: &Value, answer: &Answer) {
        let validator = {
            let mut validators = self.validators.lock().expect("no test panics while it holds this");
            let known = validators.entry(schema.to_string());
            Arc::clone(known.or_insert_with(|| Arc::new(self.validator(schema))))
        };
        let body = answer.json();
        let problems: Vec<String> =
            validator.iter_errors(&body).map(|e| format!("  {} at {}", e, e.instance_path())).collect();
        assert!(problems.is_empty(), "{} breaks the contract:\n{}\n{body:#}", answer.asked, problems.join("\n"));
    }

    /// OpenAPI 3.0 differs from JSON Schema in `nullable` and in keywords that do not validate; both
    /// are ignored here, since absent fields are left out, never null.
    fn validator(&self, schema: &Value) -> Validator {
        let mut whole = schema.as_object().cloned().unwrap_or_else(Map::new);
        whole.insert("components".into(), self.document["components"].clone());
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&Value::Object(whole))
            .expect("the contract's schemas are valid")
    }
}

/// The documented operation that a concrete path belongs to; literal templates win.
fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let mut found: Vec<(usize, &Value)> = document["paths"]
        .as_object()?
        .iter()
        .filter(|(template, item)| item.get(method).is_some() && matches(template, path))
        .map(|(template, item)| (template.matches('{').count(), &item[method]))
        .collect();
    found.sort_by_key(|(variables, _)| *variables);
    found.first().map(|(_, operation)| *operation)
}

fn matches(template: &str, path: &str) -> bool {
    // The one path variable that may hold slashes.
    if let Some(prefix) = template.strip_suffix("/{path}") {
        let depth = prefix.split('/').count();
        let mut parts = path.split('/');
        let head: Vec<&str> = parts.by_ref().take(depth).collect();
        return parts.next().is_some() && matches(prefix, &head.join("/"));
    }
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(t), Some(p)) if t == p || (t.starts_with('{') && !p.is_empty()) => {}
            _ => return false,
        }
    }
}

fn resolve<'a>(document: &'a Value, mut node: &'a Value) -> &'a Value {
    while let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        node = document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
    }
    node
}

/// Promises of the contract that `served` does not keep: operations, parameters, statuses, and
/// everything said about bodies. The served document may add, never drop or change.
///
/// # Panics
/// The contract file is broken.
pub fn missing_promises(served: &Value) -> BTreeSet<String> {
    let contract: Value = serde_json::from_str(CONTRACT).expect("the contract is JSON");
    let mut check = Superset { contract: &contract, served, missing: BTreeSet::new() };
    check.document();
    check.missing
}

struct Superset<'a> {
    contract: &'a Value,
    served: &'a Value,
    missing: BTreeSet<String>,
}

impl<'a> Superset<'a> {
    fn promise(&mut self, kept: bool, what: impl Into<String>) -> bool {
        if !kept {
            self.missing.insert(what.into());
        }
        kept
    }

    fn document(&mut self) {
        let schemes = self.served.pointer("/components/securitySchemes").and_then(Value::as_object);
        let has_key = schemes
            .into_iter()
            .flatten()
            .any(|(_, scheme)| scheme["type"] == "apiKey" && scheme["in"] == "header" && scheme["name"] == "X-API-Key");
        self.promise(has_key, "an apiKey scheme in the header X-API-Key");
        // Path variables may be named otherwise.
        let normal = |path: &str| {
            path.split('/').map(|p| if p.starts_with('{') { "{}" } else { p }).collect::<Vec<_>>().join("/")
        };
        let served: BTreeMap<String, &Value> =
            self.served["paths"].as_object().into_iter().flatten().map(|(p, item)| (normal(p), item)).collect();
        for (path, item) in self.contract["paths"].as_object().into_iter().flatten() {
            for method in METHODS {
                let Some(operation) = item.get(method) else { continue };
                let name = format!("{} {path}", method.to_uppercase());
                let found = served.get(&normal(path)).and_then(|item| item.get(method));
                match found {
                    Some(found) => self.operation(&name, operation, found),
                    None => drop(self.missing.insert(name)),
                }
            }
        }
    }

    fn operation(&mut self, name: &str, contract: &'a Value, served: &'a Value) {
        let parameters = served["parameters"].as_array();
        for wanted in contract["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] != "path") {
            let place = format!("{name} ?{}", wanted["name"].as_str().unwrap_or(""));
            let found =
                parameters.into_iter().flatten().find(|p| p["in"] == wanted["in"] && p["name"] == wanted["name"]);
            let Some(found) = found else {
                self.missing.insert(place);
                continue;
            };
            let newly_required = found["required"] == true && wanted["required"] != true;
            self.promise(!newly_required, format!("{place}: newly required"));
            // These two describe a new task; DECISIONS make them filters, so only their presence counts.
            if !matches!(wanted["name"].as_str(), Some("plugin_configs" | "node_count")) {
                self.schema(&place, &wanted["schema"], &found["schema"], false, 0);
            }
        }
        for added in parameters.into_iter().flatten().filter(|p| p["in"] != "path" && p["required"] == true) {
            let known = contract["parameters"].as_array().into_iter().flatten().any(|p| p["name"] == added["name"]);
            self.promise(known, format!("{name}: the new parameter {} is required", added["name"]));
        }
        let body = "/requestBody/content/application~1json/schema";
        if let Some(wanted) = contract.pointer(body) {
            let found = served.pointer(body).unwrap_or(&Value::Null);
            self.schema(&format!("{name} body"), wanted, found, false, 0);
        }
        for (status, wanted) in contract["responses"].as_object().into_iter().flatten() {
            let place = format!("{name} {status}");
            let Some(found) = served["responses"].get(status) else {
                self.missing.insert(place);
                continue;
            };
            let (wanted, found) = (resolve(self.contract, wanted), resolve(self.served, found));
            for (media, content) in wanted["content"].as_object().into_iter().flatten() {
                let found = found["content"].get(media);
                if self.promise(found.is_some(), format!("{place} {media}"))
                    && media == "application/json"
                    && let Some(found) = found
                {
                    self.schema(&place, &content["schema"], &found["schema"], true, 0);
                }
            }
            for header in wanted["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
                let kept = found["headers"].get(header).is_some();
                self.promise(kept, format!("{place} header {header}"));
            }
        }
    }

    fn schema(&mut self, place: &str, contract: &'a Value, served: &'a Value, answer: bool, depth: usize) {
        if depth > 12 {
            return;
        }
        let (contract, served) = (resolve(self.contract, contract), self.one_of(served));
        if contract.as_object().is_none_or(Map::is_empty) {
            return;
        }
        let types = |node: &Value| -> BTreeSet<String> {
            let listed = node["type"].as_array().cloned().unwrap_or_else(|| vec![node["type"].clone()]);
            listed.iter().filter_map(|t| t.as_str().map(str::to_owned)).filter(|t| t != "null").collect()
        };
        let (wanted, found) = (types(contract), types(served));
        let kept = wanted.is_subset(&found) || (found.is_empty() && served.get("enum").is_some());
        self.promise(kept, format!("{place}: type {wanted:?} became {found:?}"));
        if let Some(wanted) = contract["enum"].as_array() {
            let empty = Vec::new();
            let found = served["enum"].as_array().unwrap_or(&empty);
            let all = wanted.iter().all(|w| found.contains(w));
            let no_more = !answer || found.iter().all(|f| f.is_null() || wanted.contains(f));
            self.promise(all && no_more, format!("{place}: enum {wanted:?} became {found:?}"));
        }
        if let Some("date-time" | "uri") = contract["format"].as_str() {
            self.promise(contract["format"] == served["format"], format!("{place}: format"));
        }
        for key in ["pattern", "maxLength", "minimum", "maximum", "default"] {
            if !answer && let Some(wanted) = contract.get(key) {
                self.promise(served.get(key) == Some(wanted), format!("{place}: {key}"));
            }
        }
        if let Some(items) = contract.get("items") {
            self.schema(&format!("{place}[]"), items, &served["items"], answer, depth + 1);
        }
        if let Some(values) = contract.get("additionalProperties").filter(|v| v.is_object()) {
            self.schema(&format!("{place}{{}}"), values, &served["additionalProperties"], answer, depth + 1);
        }
        for (name, wanted) in contract["properties"].as_object().into_iter().flatten() {
            let place = format!("{place}.{name}");
            let Some(found) = served["properties"].get(name) else {
                self.missing.insert(place);
                continue;
            };
            self.schema(&place, wanted, found, answer, depth + 1);
        }
        let required = |node: &Value| -> BTreeSet<String> {
            node["required"].as_array().into_iter().flatten().filter_map(|r| r.as_str().map(str::to_owned)).collect()
        };
        let (wanted, found) = (required(contract), required(served));
        let kept = if answer { wanted.is_subset(&found) } else { found.is_subset(&wanted) };
        self.promise(kept, format!("{place}: required {wanted:?} became {found:?}"));
    }

    /// A nullable reference is written as a choice between null and the schema.
    fn one_of(&self, node: &'a Value) -> &'a Value {
        let node = resolve(self.served, node);
        for key in ["oneOf", "anyOf", "allOf"] {
            let Some(choices) = node[key].as_array() else { continue };
            let mut others = choices.iter().filter(|c| c["type"] != "null");
            if let (Some(one), None) = (others.next(), others.next()) {
                return self.one_of(one);
            }
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_whole_paths() {
        assert!(matches("/v1/tasks/{taskId}", "/v1/tasks/7"));
        assert!(!matches("/v1/tasks/{taskId}", "/v1/tasks/7/logs"));
        assert!(!matches("/v1/tasks/{taskId}", "/v1/tasks/"));
        assert!(matches("/v1/tasks/{taskId}/artifacts/{path}", "/v1/tasks/7/artifacts/a/b"));
        assert!(!matches("/v1/tasks/{taskId}/artifacts/{path}", "/v1/tasks/7/artifacts"));
    }

    #[test]
    fn the_contract_keeps_itself_and_every_change_is_found() {
        let contract: Value = serde_json::from_str(CONTRACT).unwrap();
        assert_eq!(missing_promises(&contract), BTreeSet::new());
        let broken = |pointer: &str, value: Value| {
            let mut changed = contract.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            missing_promises(&changed).len()
        };
        assert!(broken("/paths/~1v1~1tasks/post", Value::Null) > 0);
        assert!(broken("/paths/~1v1~1tasks/get/responses/200", json!({})) > 0);
        assert!(broken("/components/schemas/Task/properties/created_at", json!({"type": "string"})) > 0);
        assert!(broken("/components/schemas/Task/properties/status/enum", json!(["queued"])) > 0);
        assert!(broken("/components/schemas/CreateTaskRequest/required", json!(["job_name", "cpu"])) > 0);
        assert!(broken("/components/schemas/CreateTaskRequest/properties/priority/maximum", json!(9)) > 0);
        assert!(broken("/components/securitySchemes", json!({})) > 0);
    }
}
