//! pausectl's Docker Engine API client, on a real daemon.

use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pausectl::docker_api::{
    Action, ApiError, ContainerFilter, ContainerName, ContainerRef, Dns, Docker as Client,
    ErrorKind, NetworkMode, NewContainer, RestartPolicy, Socket, State,
};
use pausenet_host::Error;

use common::docker::{Docker, NO_BRIDGE};

/// Runs what waits for the daemon, on this thread: it is in the test's world.
fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(work)
}

#[test]
fn a_container_is_seen_from_its_creation_to_its_end() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let seen = block_on(async {
        let client = Client::connect(&docker.socket()).await?;
        let engine = client.version().await?.engine;
        assert_eq!(
            engine,
            docker.run(&["version", "--format", "{{.Server.Version}}"])
        );
        assert!(client.has_image("pausenet/pause").await?);
        assert!(!client.has_image("pausenet/nothing").await?);

        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut events = client.events(before.as_secs());
        let anchor = ContainerName::parse("anchor").unwrap();
        let id = client.create(&new_container("anchor")).await?;
        let by_name = ContainerRef::from(&anchor);
        let made = client.inspect(&by_name).await?;
        assert_eq!((&made.id, &made.name), (&id, &anchor));
        assert_eq!((made.state, made.pid), (State::Created, None));
        assert_eq!(made.network, NetworkMode::None);
        assert_eq!(made.restart, RestartPolicy::UnlessStopped);
        assert_eq!(made.labels["pausenet.network"], "podnet");
        assert_eq!(made.hostname, "front");
        assert_eq!(client.list(ContainerFilter::Running).await?, []);

        client.start(&by_name).await?;
        client.start(&by_name).await?; // is so already
        let prefix = ContainerRef::parse(id.short()).unwrap();
        let running = client.inspect(&prefix).await?;
        assert_eq!(running.state, State::Running);
        assert_eq!(running.pid, Some(docker.pid("anchor")));
        let all_running = client.list(ContainerFilter::Running).await?;
        assert_eq!(all_running, std::slice::from_ref(&running));
        let labelled = client
            .list(ContainerFilter::Labelled("pausenet.network"))
            .await?;
        assert_eq!(labelled, [running]);
        assert_eq!(client.list(ContainerFilter::Labelled("other")).await?, []);

        let mut member = new_container("member");
        member.network = NetworkMode::Container("anchor".into());
        member.hostname = None;
        member.dns = Dns::default();
        client.create(&member).await?;
        let member = client
            .inspect(&ContainerRef::parse("member").unwrap())
            .await?;
        assert!(member.joins(&id), "{:?}", member.network);

        client.stop(&by_name, Duration::from_secs(5)).await?;
        let ended = client.inspect(&by_name).await?;
        assert_eq!((ended.state, ended.pid), (State::Exited, None));
        client.remove(&by_name).await?;
        client.remove(&by_name).await?; // is so already
        let mut happened = Vec::new();
        while happened.last() != Some(&Action::Destroy) {
            let event = events.next().await.expect("an event")?;
            assert_eq!((&event.id, &event.name), (&id, &Some(anchor.clone())));
            happened.push(event.action);
        }
        Ok(happened)
    });
    let expected = [Action::Start, Action::Die, Action::Destroy];
    assert_eq!(seen.unwrap(), expected);
    docker.stop();
}

#[test]
fn refused_requests_have_the_right_error_kind() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    block_on(async {
        let client = Client::connect(&docker.socket()).await?;
        let missing = ContainerRef::parse("nobody").unwrap();
        let failure = client.inspect(&missing).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound);
        assert_eq!(
            failure.error.message,
            "inspect container nobody: Docker says: No such container: nobody"
        );
        assert_eq!(
            client.start(&missing).await.unwrap_err().kind,
            ErrorKind::NotFound
        );

        client.create(&new_container("anchor")).await?;
        let failure = client.create(&new_container("anchor")).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Conflict, "{failure}");
        let mut imageless = new_container("other");
        imageless.image = "pausenet/nothing".into();
        let failure = client.create(&imageless).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound, "{failure}");
        assert!(
            failure.error.message.contains("pausenet/nothing"),
            "{failure}"
        );
        Ok(())
    })
    .unwrap();
    docker.stop();
}

#[test]
fn a_missing_daemon_is_distinguished_from_a_lost_connection() {
    let dir = tempfile::tempdir().unwrap();
    let connect = |name: &str| -> ApiError {
        let socket = Socket::parse(dir.path().join(name).to_str().unwrap()).unwrap();
        block_on(async { Ok(Client::connect(&socket).await.unwrap_err()) }).unwrap()
    };
    let failure = connect("nothing");
    assert_eq!(failure.kind, ErrorKind::NotRunning);
    assert!(failure.error.message.contains("no socket at"), "{failure}");

    drop(UnixListener::bind(dir.path().join("dead")).unwrap());
    let failure = connect("dead");
    assert_eq!(failure.kind, ErrorKind::NotRunning);
    assert!(
        failure.error.message.contains("nothing listens"),
        "{failure}"
    );

    let hangs_up = UnixListener::bind(dir.path().join("rude")).unwrap();
    let server = std::thread::spawn(move || {
        drop(hangs_up.accept().unwrap()); // the look
        drop(hangs_up.accept().unwrap()); // the question
    });
    let failure = connect("rude");
    assert_eq!(failure.kind, ErrorKind::ConnectionLost, "{failure}");
    server.join().unwrap();
}

fn new_container(name: &str) -> NewContainer {
    NewContainer {
        name: Some(ContainerName::parse(name).unwrap()),
        image: "pausenet/pause".into(),
        command: Vec::new(),
        network: NetworkMode::None,
        restart: RestartPolicy::UnlessStopped,
        labels: vec![("pausenet.network".into(), "podnet".into())],
        hostname: Some("front".into()),
        dns: Dns {
            servers: vec!["10.1.0.53".into()],
            ..Dns::default()
        },
        hosts: Vec::new(),
    }
}
