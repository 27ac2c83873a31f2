//! Which container a process is in, according to the path of its control group.
//!
//! Each runtime formats that path differently, but all put the container's ID into it, as 64
//! hexadecimal digits. (containerd's `ctr` accepts any name as an ID; for that,
//! [`super::supervisor`] reads the shim.)

/// A container named in the path of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    /// Derived from the form of the path; None for a form that several engines use.
    pub engine: Option<Engine>,
}

/// The container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Engine {
    Docker,
    Containerd,
    Podman,
    CriO,
}

impl Engine {
    /// Its name as shown to the user.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::CriO => "CRI-O",
        }
    }
}

/// Finds the container in the content of /proc/PID/cgroup; the innermost one if they are nested.
pub fn container(file: &str) -> Option<Named> {
    // One line `ID:CONTROLLERS:PATH` for each hierarchy; ID 0 is cgroup v2. A container may be
    // in only some of them.
    file.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        of_path(path)
    })
}

fn of_path(path: &str) -> Option<Named> {
    let parts: Vec<_> = path.split('/').collect();
    let found = |at: usize| {
        let named = of_part(parts[at])?;
        let parent = at.checked_sub(1).map(|above| parts[above]);
        Some(match (named.engine, parent) {
            (None, Some("docker")) => Named {
                engine: Some(Engine::Docker),
                ..named
            },
            _ => named,
        })
    };
    (0..parts.len()).rev().find_map(found)
}

/// `ID`, or `ENGINE-ID.scope` with systemd.
fn of_part(part: &str) -> Option<Named> {
    const FORMS: [(&str, Option<Engine>); 5] = [
        ("docker-", Some(Engine::Docker)),
        ("cri-containerd-", Some(Engine::Containerd)),
        ("libpod-", Some(Engine::Podman)),
        ("crio-", Some(Engine::CriO)),
        ("", None),
    ];
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // CRI with the cgroupfs driver and a slice as prefix: `SLICE:cri-containerd:ID`.
    let part = match part.rsplit_once(':') {
        Some((rest, id)) if rest.ends_with("cri-containerd") => {
            return is_id(id).then(|| Named {
                id: id.to_owned(),
                engine: Some(Engine::Containerd),
            });
        }
        _ => part,
    };
    FORMS.into_iter().find_map(|(prefix, engine)| {
        let id = part.strip_prefix(prefix)?;
        is_id(id).then(|| Named {
            id: id.to_owned(),
            engine,
        })
    })
}

/// Whether the text is a container ID as runtimes generate them: 64 hexadecimal digits.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

/// Whether the text is all hexadecimal digits, of any number.
pub fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    #[test]
    fn each_runtime_s_form_is_known() {
        let id = id();
        for (path, engine) in [
            (format!("/docker/{id}"), Some(Engine::Docker)),
            (format!("/some-parent/{id}"), None),
            (
                format!("/system.slice/docker-{id}.scope"),
                Some(Engine::Docker),
            ),
            (format!("/kubepods/burstable/podb1f2-33/{id}"), None),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podb1.slice/\
                     cri-containerd-{id}.scope"
                ),
                Some(Engine::Containerd),
            ),
            (
                format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{id}"),
                Some(Engine::Containerd),
            ),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/crio-{id}.scope"),
                Some(Engine::CriO),
            ),
            (
                format!("/machine.slice/libpod-{id}.scope/container"),
                Some(Engine::Podman),
            ),
            (format!("/libpod_parent/libpod-{id}"), Some(Engine::Podman)),
        ] {
            for file in [
                format!("0::{path}\n"),
                format!("12:pids:/\n3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n"),
            ] {
                let expected = Named {
                    id: id.clone(),
                    engine,
                };
                assert_eq!(container(&file), Some(expected), "{path}");
            }
        }
    }

    #[test]
    fn of_nested_containers_the_innermost_counts() {
        let inner = "f".repeat(64);
        let file = format!("0::/docker/{}/kubelet/kubepods/pod1/{inner}\n", id());
        assert_eq!(container(&file).unwrap().id, inner);
    }

    #[test]
    fn a_container_s_monitor_process_is_not_in_it() {
        let id = id();
        for path in [
            "/".to_owned(),
            "/user.slice/user-0.slice/session-1.scope".to_owned(),
            "/default/web".to_owned(),
            format!("/machine.slice/libpod-conmon-{id}.scope"),
            format!("/machine.slice/crio-conmon-{id}.scope"),
            format!("/docker/{}", &id[1..]),
            format!("/docker/{id}0"),
            format!("/docker/{}", id.to_uppercase()),
        ] {
            assert_eq!(container(&format!("0::{path}\n")), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "[0-9a-f:/.\\n-]{0,80}") {
            if let Some(named) = container(&text) {
                prop_assert!(is_id(&named.id));
            }
        }
    }
}
