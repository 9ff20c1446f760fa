//! Prints the API document; `cargo xtask openapi` writes it to `api/openapi.json`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let document = fetchml_server::openapi().to_pretty_json().map_err(std::io::Error::other)?;
    writeln!(std::io::stdout(), "{document}")
}
