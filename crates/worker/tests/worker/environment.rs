//! Python environments: built once, waited for, refused with what pip said, stopped whole. Without a
//! network: packages are directories of the snapshot itself.

use crate::rig::{helper, until};
use fetchml_api::FailureCause;
use fetchml_worker::staging::{Cache, EnvironmentRequest, Environments, PythonEnvironment, StageError};
use fetchml_worker::{
    isolation::{Isolation, Sandboxes},
    shim::Helper,
};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Lab {
    data: TempDir,
    environments: Environments,
    cancel: CancellationToken,
}

impl Lab {
    async fn new() -> Self {
        Self::with(async |_, data| Sandboxes::none(data)).await
    }

    async fn with(sandboxes: impl AsyncFnOnce(&Helper, &Path) -> Sandboxes) -> Self {
        let data = TempDir::new().unwrap();
        let (cache, helper) = (Cache::open(data.path(), None).unwrap(), helper().await);
        let sandboxes = sandboxes(&helper, data.path()).await;
        let environments = Environments::new(cache, data.path(), Arc::new(helper), sandboxes);
        Self { data, environments, cancel: CancellationToken::new() }
    }

    /// A directory with these files.
    fn snapshot(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.data.path().join(name);
        for (path, text) in files {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        root
    }

    async fn prepare(&self, root: &Path) -> Result<Option<PythonEnvironment>, StageError> {
        let request = EnvironmentRequest {
            snapshot_root: root,
            snapshot_id: "sha256:00",
            log: &root.join("log"),
            slot: 1,
            cancel: &self.cancel,
        };
        Ok(self.environments.prepare(request).await?.map(|(environment, _)| environment))
    }
}

fn log(root: &Path) -> String {
    fs::read_to_string(root.join("log")).unwrap()
}

#[tokio::test]
async fn two_requests_build_once_and_a_later_one_reuses() {
    let lab = Lab::new().await;
    let files = [("requirements.txt", "# nothing to install\n")];
    let (one, two) = (lab.snapshot("one", &files), lab.snapshot("two", &files));
    let (first, second) = tokio::join!(lab.prepare(&one), lab.prepare(&two));
    let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
    assert_eq!((first.reused, second.reused), (false, true));
    assert_eq!(first.root, second.root);
    assert!(log(&one).contains("building from requirements.txt with") && log(&one).contains(": ready"));
    assert!(log(&two).contains("waiting for the build") && log(&two).contains(": reused"));

    let version = Command::new(first.python()).args(["-c", "import sys; print(sys.prefix)"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), first.root.to_str().unwrap());
    assert!(fs::metadata(first.root.join("pyvenv.cfg")).unwrap().permissions().readonly());

    // An agent started anew.
    let cache = Cache::open(lab.data.path(), None).unwrap();
    let again = Environments::new(cache, lab.data.path(), Arc::new(helper().await), Sandboxes::none(lab.data.path()));
    let three = lab.snapshot("three", &files);
    let request = EnvironmentRequest {
        snapshot_root: &three,
        snapshot_id: "sha256:01",
        log: &three.join("log"),
        slot: 1,
        cancel: &lab.cancel,
    };
    assert!(again.prepare(request).await.unwrap().unwrap().0.reused);
    assert_eq!(log(&three), format!("fetchml: environment {}: reused\n", &first.hash[..12]));
}

#[tokio::test]
async fn a_snapshot_that_asks_for_nothing_gets_none() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &[("train.py", "")]);
    assert_eq!(lab.prepare(&root).await, Ok(None));
    assert!(!root.join("log").exists());
}

#[tokio::test]
async fn a_half_built_environment_is_wiped_and_built_again() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &[("requirements.txt", "")]);
    let built = lab.prepare(&root).await.unwrap().unwrap();
    fs::remove_file(built.root.join(".ready")).unwrap();
    fs::write(built.root.join("rubbish"), "").unwrap();
    let again = lab.prepare(&root).await.unwrap().unwrap();
    assert!(!again.reused && !again.root.join("rubbish").exists());
}

#[tokio::test]
async fn requirements_that_cannot_be_had_fail_with_what_the_builder_said() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &[("requirements.txt", "./no-such-package-directory\n")]);
    let error = lab.prepare(&root).await.unwrap_err();
    assert_eq!((error.cause, error.transient), (FailureCause::Environment, false), "{error}");
    assert!(error.message.contains("no-such-package-directory"), "{error}");
    assert!(log(&root).contains("no-such-package-directory"));
    let left = fs::read_dir(lab.data.path().join("envs")).unwrap().flatten().map(|entry| entry.path());
    assert!(left.into_iter().all(|path| !path.join(".ready").exists()));
    let root = lab.snapshot("two", &[("pyproject.toml", "[project]\ndependencies = 3\n")]);
    assert_eq!(lab.prepare(&root).await.unwrap_err().cause, FailureCause::Environment);
}

/// A package whose build says so, then never ends, with a child in a session of its own.
const ENDLESS: [(&str, &str); 3] = [
    ("requirements.txt", "./package\n"),
    ("package/pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n"),
    (
        "package/backend.py",
        "import os, subprocess, time\n\
         def forever(*_):\n\
        \x20   child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n\
        \x20   open(os.path.join(os.path.dirname(__file__), 'pid.new'), 'w').write(str(child.pid))\n\
        \x20   os.rename(os.path.join(os.path.dirname(__file__), 'pid.new'), os.path.join(os.path.dirname(__file__), 'pid'))\n\
        \x20   time.sleep(1000)\n\
         get_requires_for_build_wheel = prepare_metadata_for_build_wheel = build_wheel = forever\n",
    ),
];

#[tokio::test]
async fn cancelling_kills_the_builders_whole_tree() {
    let lab = Lab::new().await;
    let root = lab.snapshot("one", &ENDLESS);
    let stop = async {
        let pid = root.join("package/pid");
        let child = until("the build to be under way", || fs::read_to_string(&pid).ok()).await;
        lab.cancel.cancel();
        child
    };
    let (result, child) = tokio::join!(lab.prepare(&root), stop);
    assert_eq!(result.unwrap_err().cause, FailureCause::Cancelled);
    let stat = fs::read_to_string(format!("/proc/{child}/stat"));
    assert!(stat.is_err(), "{stat:?}");
}

/// A package whose build looks around, leaves what it should not, and tells what it saw.
const CURIOUS: &str = r"
import json, os, zipfile

def tries(what, act):
    try:
        act()
        return [what]
    except OSError:
        return []

def build_wheel(into, config_settings=None, metadata_directory=None):
    root = os.environ['UV_PROJECT_ENVIRONMENT']
    seen = tries('key', lambda: open('@DATA@/agent.key').read())
    seen += tries('others', lambda: os.listdir('@DATA@/attempts'))
    seen += tries('blobs', lambda: open('@DATA@/blobs/planted', 'w'))
    tries('tools', lambda: os.makedirs('@DATA@/tools/uv/bin'))
    seen += tries('system', lambda: open('/usr/planted', 'w'))
    seen += tries('shadow', lambda: open('/etc/shadow').read())
    seen += [name for name in os.environ if 'SECRET' in name]
    # It is asked twice: what it is, and to make it.
    if not os.path.lexists(root + '/.ready'):
        os.symlink('@DATA@/overwritten', root + '/.ready')
        open(root + '/setuid', 'w').close()
        os.chmod(root + '/setuid', 0o6755)
        os.mkdir(root + '/closed', 0)
    with zipfile.ZipFile(os.path.join(into, 'curious-1-py3-none-any.whl'), 'w') as wheel:
        wheel.writestr('curious.py', 'SEEN = %r' % json.dumps(seen))
        wheel.writestr('curious-1.dist-info/METADATA', 'Metadata-Version: 2.1\nName: curious\nVersion: 1\n')
        wheel.writestr('curious-1.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        wheel.writestr('curious-1.dist-info/RECORD', '')
    return 'curious-1-py3-none-any.whl'
";

const PACKAGE: &str = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n[project]\nname = \"curious\"\nversion = \"1\"\n";

async fn builds_in_its_place(lab: &Lab) {
    let data = lab.data.path();
    fs::write(data.join("agent.key"), "the key").unwrap();
    fs::create_dir_all(data.join("attempts/other")).unwrap();
    let backend = CURIOUS.replace("@DATA@", data.to_str().unwrap());
    let files =
        [("requirements.txt", "./package\n"), ("package/pyproject.toml", PACKAGE), ("package/backend.py", &backend)];
    let root = lab.snapshot("one", &files);
    let built = lab.prepare(&root).await.unwrap_or_else(|error| panic!("{error}\n{}", log(&root))).unwrap();
    let seen = Command::new(built.python()).args(["-c", "import curious; print(curious.SEEN)"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "[]\n", "{}", String::from_utf8_lossy(&seen.stderr));
    for planted in ["overwritten", "blobs/planted", "tools"] {
        assert!(!data.join(planted).exists(), "{planted}");
    }
    let own = rustix::process::geteuid().as_raw();
    for name in ["bin/python", ".ready", "setuid", "closed", "pyvenv.cfg"] {
        let metadata = fs::symlink_metadata(built.root.join(name)).unwrap();
        assert_eq!(metadata.uid(), own, "{name}");
        assert!(metadata.is_symlink() || metadata.mode() & 0o6022 == 0, "{name}: {:o}", metadata.mode());
    }
    assert!(lab.prepare(&root).await.unwrap().unwrap().reused);
}

#[tokio::test]
async fn a_build_in_bubblewrap_sees_and_changes_nothing_but_its_own() {
    let lab = Lab::with(async |helper, data| Sandboxes::probe(Isolation::Required, helper, data).await.unwrap()).await;
    builds_in_its_place(&lab).await;
}

#[tokio::test]
async fn a_build_in_landlock_sees_and_changes_nothing_but_its_own() {
    builds_in_its_place(&Lab::with(async |helper, data| Sandboxes::landlock(helper, data).await.unwrap()).await).await;
}

#[tokio::test]
async fn a_build_with_a_second_name_for_one_of_its_files_is_refused() {
    let lab = Lab::with(async |helper, data| Sandboxes::probe(Isolation::Required, helper, data).await.unwrap()).await;
    let link = "os.link(root + '/pyvenv.cfg', root + '/second')";
    let backend =
        CURIOUS.replace("os.mkdir(root + '/closed', 0)", link).replace("@DATA@", lab.data.path().to_str().unwrap());
    let files =
        [("requirements.txt", "./package\n"), ("package/pyproject.toml", PACKAGE), ("package/backend.py", &backend)];
    let error = lab.prepare(&lab.snapshot("one", &files)).await.unwrap_err();
    assert!(error.message.contains("second name"), "{error}");
}

/// The environment of a list of requirements is that of everybody with the same list: what else lies in a snapshot has
/// no say in it.
#[tokio::test]
async fn files_beside_the_requirements_have_no_say() {
    let lab = Lab::new().await;
    let planted = "import os; open('planted', 'w'); raise SystemExit('planted')\n";
    let files = [
        ("requirements.txt", "# nothing\n"),
        ("pip.py", planted),
        ("venv.py", planted),
        ("sitecustomize.py", planted),
        ("uv.toml", "not toml at all"),
    ];
    let root = lab.snapshot("one", &files);
    assert!(!lab.prepare(&root).await.unwrap().unwrap().reused);
    assert!(!root.join("planted").exists() && !log(&root).contains("planted"), "{}", log(&root));
}
