//! Embeds the page of `/docs` where `cargo xtask web` has built it, else the one that says how to have it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/docs");
    println!("cargo::rerun-if-changed=build.rs");
    // Not `dist` itself: what is not there counts as changed each time.
    println!("cargo::rerun-if-changed={}", web.display());
    let mut files = built(&web.join("dist"));
    if files.is_empty() {
        let page = web.join("page");
        files = vec![("index.html".into(), page.join("without.html")), ("page.css".into(), page.join("page.css"))];
    }
    let entries: Vec<String> =
        files.iter().map(|(name, path)| format!("    ({name:?}, include_bytes!({:?})),\n", path.display())).collect();
    let code = format!("&[\n{}]\n", entries.concat());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("docs_page.rs"), code).expect("cargo's directory can be written");
}

/// Name and place of each file, sorted.
fn built(dist: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(dist).into_iter().flatten().flatten();
    let path = |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
    let mut files: Vec<_> = entries.map(path).filter(|(_, path)| path.is_file()).collect();
    files.sort();
    files
}
