//! Real proxies in front of a real server, configured as docs/proxies.md says, and as people paste it.
//!
//! One fast case runs where nginx is; `cargo xtask test --all` installs the proxies and runs the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod crowd;
mod guide;
mod process;
mod visitor;

use std::time::Duration;

use datasole_server::{Context, Server};
use datasole_tests::running::Running;
use tokio::time::timeout;

use crate::{
    crowd::Crowd,
    guide::snippet,
    process::{Kind, Proxy},
    visitor::Visitor,
};

/// Far above what any of these tests takes; Apache alone waits 10 s before it stops.
const PATIENCE: Duration = Duration::from_secs(240);

async fn serve() -> Running {
    let server = Server::builder()
        .trust_proxy("127.0.0.1".parse().unwrap())
        .rpc("remote", |context: Context, (): ()| async move { Ok(context.connection().remote_addr()) })
        .build();
    Running::start(server).await
}

/// The configuration of the page in front of a new server.
async fn recommended(kind: Kind) -> (Running, Proxy) {
    let running = serve().await;
    let proxy = Proxy::start(kind, &snippet(kind, 0), running.address);
    (running, proxy)
}

/// Clients that come through this proxy are served, and known: pages, health checks, programs.
async fn serves(running: &Running, proxy: &Proxy) {
    let visitor = Visitor::of(proxy.address);
    // Caddy believes nobody before it. Port 0: the address was told by the proxy.
    let known = if proxy.kind == Kind::Caddy { "127.0.0.1:0" } else { "203.0.113.7:0" };
    assert_eq!(visitor.open_page("http://app.example:8080", "app.example:8080", "203.0.113.7").await, known);
    let refused = visitor.open("Host: app.example:8080\r\nOrigin: http://evil.example\r\n").await.unwrap_err();
    assert!(refused.contains("http/1.1 403 ") && refused.contains("datasole-refused: origin\r\n"), "{refused}");
    let health = visitor.get("/__ds/health").await;
    assert!(health.starts_with("http/1.1 200 ") && health.contains("\r\ndatasole: "), "{health}");
    assert_eq!(running.server.metrics_snapshot().refused, 1, "nobody else was refused");
}

/// The effect of a reload on those who are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reload {
    Keeps,
    Cuts,
}

async fn survives(kind: Kind, reload: Reload) {
    let work = async {
        let (running, mut proxy) = recommended(kind).await;
        serves(&running, &proxy).await;
        let mut crowd = Crowd::of(&proxy, 10, 10).await;
        crowd.follows(&running, 1).await;
        let accepted = running.server.metrics_snapshot().accepted;
        proxy.reload();
        crowd.follows(&running, 2).await;
        if reload == Reload::Keeps {
            assert_eq!(running.server.metrics_snapshot().accepted, accepted, "{kind:?} keeps connections in a reload");
        }
        serves_one_more(&proxy).await;
        proxy.restart();
        crowd.follows(&running, 3).await;
        crowd.leave().await;
    };
    timeout(PATIENCE, work).await.expect("in time");
}

async fn serves_one_more(proxy: &Proxy) {
    let visitor = Visitor::of(proxy.address);
    visitor.open_page("http://app.example:8080", "app.example:8080", "203.0.113.7").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_as_recommended_serves_through_a_reload() {
    if Kind::Nginx.program().is_none() {
        return println!("skipped: {}", Kind::Nginx.missing());
    }
    let work = async {
        let (running, mut proxy) = recommended(Kind::Nginx).await;
        serves(&running, &proxy).await;
        let mut crowd = Crowd::of(&proxy, 4, 0).await;
        crowd.follows(&running, 1).await;
        proxy.reload();
        crowd.follows(&running, 2).await;
        serves_one_more(&proxy).await;
    };
    timeout(PATIENCE, work).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx and the npm package: cargo xtask test --all"]
async fn nginx_survives() {
    survives(Kind::Nginx, Reload::Keeps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs HAProxy and the npm package: cargo xtask test --all"]
async fn haproxy_survives() {
    survives(Kind::HaProxy, Reload::Keeps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Apache and the npm package: cargo xtask test --all"]
async fn apache_survives() {
    survives(Kind::Apache, Reload::Keeps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Caddy and the npm package: cargo xtask test --all"]
async fn caddy_survives() {
    survives(Kind::Caddy, Reload::Cuts).await;
}

/// Caddy says goodbye to the server without a mask, to the client with 1001; whichever comes first, all come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Caddy and the npm package: cargo xtask test --all"]
async fn two_hundred_clients_come_back_after_each_reload_of_caddy() {
    let work = async {
        let (running, mut proxy) = recommended(Kind::Caddy).await;
        let mut crowd = Crowd::of(&proxy, 100, 100).await;
        crowd.follows(&running, 0).await;
        for round in 1..=3 {
            proxy.reload();
            crowd.follows(&running, round).await;
        }
        assert!(running.server.metrics_snapshot().accepted >= 800, "each reload cut all of them");
        crowd.leave().await;
    };
    timeout(PATIENCE, work).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx: cargo xtask test --all"]
async fn a_prefix_that_nginx_strips() {
    let running = serve().await;
    let proxy = Proxy::start(Kind::Nginx, &snippet(Kind::Nginx, 1), running.address);
    let visitor = Visitor::of(proxy.address);
    let health = visitor.get("/app/__ds/health").await;
    assert!(health.starts_with("http/1.1 200 "), "{health}");
    let client = datasole_client::Client::builder(format!("http://{}/app", proxy.address)).connect().await.unwrap();
    assert!(client.call::<_, String>("remote", &()).await.is_ok());
}

/// The configurations that people paste first, and the words that help them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx, HAProxy and Apache: cargo xtask test --all"]
async fn wrong_configurations_are_told_by_name() {
    const UPGRADES: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                            proxy_set_header Connection \"upgrade\";";
    let nginx = |location: &str, more: &str| {
        format!("server {{ listen 8080; location {location} {{ proxy_pass http://127.0.0.1:4000; {more} }} }}")
    };
    let no_upgrade = &["http/1.1 426 ", "datasole-refused: upgrade\r\n", "does not pass the upgrade on"][..];
    let no_host = &["http/1.1 403 ", "datasole-refused: origin\r\n", "pass host on (nginx: proxy_set_header host"][..];
    let cases = [
        (Kind::Nginx, nginx("/", ""), no_upgrade),
        (Kind::Nginx, nginx("/", "proxy_set_header Host $http_host;"), no_upgrade),
        (Kind::Nginx, nginx("/", "proxy_http_version 1.1; proxy_set_header Connection \"\";"), no_upgrade),
        (Kind::Nginx, nginx("/", UPGRADES), no_host),
        (Kind::Nginx, nginx("/", &format!("{UPGRADES} proxy_set_header Host $host;")), no_host),
        (Kind::Nginx, nginx("/__ds/", UPGRADES), &["http/1.1 301 "]),
        (Kind::Apache, "ProxyPass / http://127.0.0.1:4000/".to_owned(), no_upgrade),
    ];
    for (kind, configuration, words) in cases {
        let running = serve().await;
        let proxy = Proxy::start(kind, &configuration, running.address);
        let page = "Host: app.example:8080\r\nOrigin: http://app.example:8080\r\n";
        let refused = Visitor::of(proxy.address).open(page).await.unwrap_err();
        for word in words {
            assert!(refused.contains(word), "{configuration}: {word} is not in {refused}");
        }
    }
    // A host that is passed on otherwise is as good.
    let forwarded = format!("{UPGRADES} proxy_set_header X-Forwarded-Host $http_host;");
    let apache = "ProxyPass / http://127.0.0.1:4000/ upgrade=websocket".to_owned();
    for (kind, configuration) in [(Kind::Nginx, nginx("/", &forwarded)), (Kind::Apache, apache)] {
        let running = serve().await;
        serves_one_more(&Proxy::start(kind, &configuration, running.address)).await;
    }
}
