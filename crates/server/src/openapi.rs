//! The API document: what the routes say, and what is the same for every operation.

use crate::{auth::Operation, routes};
use fetchml_api::ErrorResponse;
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{
        Components, Content, HeaderBuilder, InfoBuilder, Object, OpenApi, OpenApiVersion, PathItem, Ref, RefOr,
        Required, ResponseBuilder, SecurityRequirement, Server, Type,
        path::Operation as Documented,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

const KEY_SCHEME: &str = "ApiKeyAuth";
const BEARER_SCHEME: &str = "BearerAuth";

/// Errors that are the same everywhere: name, status, description, and whether `Retry-After` is set.
const ERRORS: [(&str, &str, &str, bool); 11] = [
    ("BadRequest", "400", "The request cannot be read", false),
    ("Unauthorized", "401", "No key, or one that is not accepted", false),
    ("Forbidden", "403", "Not with this key", false),
    ("NotFound", "404", "Nothing there", false),
    ("Conflict", "409", "Its state forbids it", false),
    ("PayloadTooLarge", "413", "The body is too large", false),
    ("UnsupportedMediaType", "415", "The wrong content type", false),
    ("ValidationError", "422", "Readable, but against the schema or its meaning", false),
    ("RateLimited", "429", "Too many requests", true),
    ("InternalError", "500", "A fault of the server", false),
    ("ServiceUnavailable", "503", "Overloaded, or the store cannot be used", true),
];

/// The document that is served at `/openapi.json`.
pub fn openapi() -> OpenApi {
    let mut document = routes::bare_document();
    document.openapi = OpenApiVersion::Version31;
    document.info = InfoBuilder::new()
        .title("FetchML")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Runs machine-learning experiments on the machines of a lab."))
        .build();
    document.servers = Some(vec![Server::new("http://localhost:9101")]);
    document.security = Some(vec![SecurityRequirement::new(KEY_SCHEME, Vec::<String>::new())]);
    let components = document.components.get_or_insert_with(Components::new);
    let key = ApiKey::Header(ApiKeyValue::with_description("X-API-Key", "`fml_<id>_<secret>`"));
    components.add_security_scheme(KEY_SCHEME, SecurityScheme::ApiKey(key));
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The same key, for `/metrics` only"));
    components.add_security_scheme(BEARER_SCHEME, SecurityScheme::Http(bearer.build()));
    components.schemas.insert(ErrorResponse::name().into_owned(), ErrorResponse::schema());
    let mut schemas = Vec::new();
    ErrorResponse::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (name, _, description, retry_after) in ERRORS {
        let mut response = ResponseBuilder::new()
            .description(description)
            .content("application/json", Content::new(Some(Ref::from_schema_name(ErrorResponse::name()))));
        if retry_after {
            let seconds = HeaderBuilder::new()
                .schema(Some(Object::with_type(Type::Integer)))
                .description(Some("Seconds to wait"))
                .build();
            response = response.header("Retry-After", seconds);
        }
        components.responses.insert(name.to_owned(), RefOr::T(response.build()));
    }
    for operation in Operation::ALL {
        complete(&mut document, operation);
    }
    document
}

/// Adds the common errors to an operation, under its path as people write it.
fn complete(document: &mut OpenApi, operation: Operation) {
    let (method, path) = operation.route();
    if let Some(item) = document.paths.paths.remove(&path.replace("{path}", "{*path}")) {
        document.paths.paths.insert(path.to_owned(), item);
    }
    let item = document.paths.paths.get_mut(path).expect("every operation has its route");
    let documented = of_method(item, method).as_mut().expect("every operation has its route");
    for status in common_errors(operation, documented) {
        let (name, ..) = ERRORS.iter().find(|(_, s, ..)| *s == status).expect("every common error has its row");
        let known = documented.responses.responses.entry(status.to_owned());
        known.or_insert_with(|| RefOr::Ref(Ref::from_response_name(*name)));
    }
}

fn common_errors(operation: Operation, documented: &Documented) -> Vec<&'static str> {
    let mut errors = vec!["500"];
    if operation.is_open() {
        return errors;
    }
    errors.extend(["401", "403", "429", "503"]);
    let parameters = documented.parameters.iter().flatten().filter_map(|p| match p {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let (mut in_path, mut elsewhere) = (false, false);
    for parameter in parameters {
        let required = parameter.required == Required::True;
        in_path |= required;
        elsewhere |= !required;
    }
    if in_path {
        errors.push("404");
    }
    if elsewhere || operation == Operation::WorkerConnect {
        errors.push("400");
    }
    if documented.request_body.is_some() {
        errors.extend(["400", "413", "422"]);
        if operation != Operation::BlobPut {
            errors.push("415");
        }
    }
    errors
}

fn of_method<'a>(item: &'a mut PathItem, method: &str) -> &'a mut Option<Documented> {
    match method {
        "get" => &mut item.get,
        "put" => &mut item.put,
        "post" => &mut item.post,
        "patch" => &mut item.patch,
        "delete" => &mut item.delete,
        other => unreachable!("no operation has the method {other}"),
    }
}
