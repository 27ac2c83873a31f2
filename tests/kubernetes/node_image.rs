//! The image pausenet/node, of the programs that were built for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::script::CHECKOUT;
use common::daemon::stripped;
use common::programs;

/// The folder with the binaries that Cargo built for the tests.
pub(crate) fn binaries() -> PathBuf {
    let binaries = [
        programs::pausenetd(),
        programs::pausenet(),
        programs::pausectl(),
        programs::pause(),
    ];
    let binaries = binaries.map(stripped);
    binaries[0].parent().unwrap().to_owned()
}

/// Builds the image pausenet/node of these binaries.
pub(crate) fn node_image() -> PathBuf {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-node.tar");
    let output = Command::new(Path::new(CHECKOUT).join("scripts/image.sh"))
        .args(["--node", "--binaries"])
        .arg(binaries())
        .arg("--output")
        .arg(&image)
        .output()
        .unwrap();
    assert!(output.status.success(), "image.sh: {output:?}");
    image
}
