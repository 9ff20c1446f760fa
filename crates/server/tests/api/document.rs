use fetchml_server::Operation;
use fetchml_testkit::{TestServer, missing_promises};
use serde_json::Value;
use std::collections::BTreeSet;

/// What the contract promises and the server does not do yet. This list only shrinks: a promise that
/// is kept must leave it.
const NOT_YET: &[&str] = &[
    "DELETE /v1/jupyter/services/{serviceId}",
    "DELETE /v1/plugins/{pluginName}/config",
    "GET /v1/jupyter/services",
    "GET /v1/plugins",
    "GET /v1/plugins/{pluginName}",
    "GET /v1/plugins/{pluginName}/config",
    "GET /v1/plugins/{pluginName}/health",
    "GET /v1/tasks 200.tasks[].plugin_status",
    "GET /v1/tasks/{taskId} 200.plugin_status",
    "PATCH /v1/scheduler/jobs/{jobId}/priority 200.plugin_status",
    "POST /v1/jupyter/services",
    "POST /v1/tasks 201.plugin_status",
    "PUT /v1/plugins/{pluginName}/config",
];

fn served() -> Value {
    serde_json::to_value(fetchml_server::openapi()).unwrap()
}

#[tokio::test]
pub(crate) async fn is_served_complete() {
    let server = TestServer::start().await;
    let document = server.anonymous().get("/openapi.json").await.expect(200).json();
    assert_eq!(document, served());
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["operationId"].is_string(), "{method} {path} has no id");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            documented.insert((method.clone(), path.clone()));
        }
    }
    let all: BTreeSet<_> = Operation::ALL.iter().map(|o| o.route()).map(|(m, p)| (m.into(), p.into())).collect();
    assert_eq!(documented, all);
}

#[test]
fn keeps_the_contract_but_for_a_shrinking_list() {
    let missing = missing_promises(&served());
    let listed: BTreeSet<String> = NOT_YET.iter().map(|s| (*s).to_owned()).collect();
    let broken: Vec<_> = missing.difference(&listed).collect();
    let kept: Vec<_> = listed.difference(&missing).collect();
    assert!(broken.is_empty(), "the document breaks the contract: {broken:#?}");
    assert!(kept.is_empty(), "these are kept now, take them off the list: {kept:#?}");
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, node: &Value) {
        match node {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
                }
                members.values().for_each(|v| walk(document, v));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(document, v)),
            _ => {}
        }
    }
    let document = served();
    walk(&document, &document);
}

#[test]
fn the_committed_document_is_the_served_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let fresh = fetchml_server::openapi().to_pretty_json().unwrap() + "\n";
    assert!(committed == fresh, "api/openapi.json is stale: run `cargo xtask openapi`");
}
