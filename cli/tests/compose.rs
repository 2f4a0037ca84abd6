//! `examples/cluster`, as far as that can be checked without containers: what its files say of each other and of
//! `datasole serve` is true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, process::Command};

use yaml_rust2::{Yaml, YamlLoader};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join("examples/cluster").join(name)).unwrap()
}

fn names(yaml: &Yaml) -> Vec<&str> {
    yaml.as_hash().unwrap().keys().map(|key| key.as_str().unwrap()).collect()
}

fn texts(yaml: &Yaml) -> Vec<&str> {
    yaml.as_vec().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

/// The file, and the same with the services that are comments.
fn each_is_whole(check: impl Fn(&Yaml)) {
    let text = read("compose.yaml");
    let uncommented: Vec<String> = text
        .lines()
        .map(|line| line.strip_prefix("  # ").map_or_else(|| line.to_owned(), |service| format!("  {service}")))
        .collect();
    for text in [text.clone(), uncommented.join("\n")] {
        check(&YamlLoader::load_from_str(&text).unwrap()[0]);
    }
}

#[test]
fn services_and_volumes_are_there() {
    each_is_whole(|file| {
        let services = names(&file["services"]);
        let volumes = names(&file["volumes"]);
        assert!(services.contains(&"redis") && services.contains(&"balancer"), "{services:?}");
        for (name, service) in file["services"].as_hash().unwrap() {
            for wanted in texts(&service["depends_on"]) {
                assert!(services.contains(&wanted), "{name:?} depends on {wanted}");
            }
            for volume in texts(&service["volumes"]) {
                let source = volume.split(':').next().unwrap();
                let is_there = match source.strip_prefix("./") {
                    Some(file) => root().join("examples/cluster").join(file).is_file(),
                    None => volumes.contains(&source),
                };
                assert!(is_there, "{name:?} mounts {source}");
            }
            if !service["build"].is_badvalue() {
                let context = root().join("examples/cluster").join(service["build"]["context"].as_str().unwrap());
                let dockerfile = context.join(service["build"]["dockerfile"].as_str().unwrap());
                assert!(dockerfile.is_file(), "{}", dockerfile.display());
            }
        }
    });
}

#[test]
fn nodes_are_told_what_serve_understands() {
    let help = Command::new(env!("CARGO_BIN_EXE_datasole")).args(["serve", "--help"]).env_clear().output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // Its help does not show the variable of the engine, but it refuses one that there is not.
    let mut refused = Command::new(env!("CARGO_BIN_EXE_datasole"));
    let refused = refused.arg("serve").env_clear().env("DATASOLE_BACKEND", "mysql://h").output().unwrap();
    let reads_backend = String::from_utf8(refused.stderr).unwrap().contains("mysql: is no engine");
    each_is_whole(|file| {
        let nodes: Vec<_> =
            file["services"].as_hash().unwrap().iter().filter(|(_, service)| !service["build"].is_badvalue()).collect();
        assert_eq!(nodes.len(), 3);
        let balancer = read("nginx.conf");
        for (name, node) in nodes {
            let (name, environment) = (name.as_str().unwrap(), &node["environment"]);
            for variable in names(environment) {
                let is_flag = help.contains(&format!("[env: {variable}="));
                assert!(
                    is_flag || (variable == "DATASOLE_BACKEND" && reads_backend),
                    "{variable} is none of datasole serve"
                );
            }
            let backend = environment["DATASOLE_BACKEND"].as_str().unwrap();
            let engine = backend.split("://").nth(1).unwrap().split(['?', '/']).next().unwrap();
            assert!(names(&file["services"]).contains(&engine), "{backend} names a service");
            let port = environment["DATASOLE_LISTEN"].as_str().unwrap().rsplit(':').next().unwrap();
            assert!(balancer.contains(&format!("server {name}:{port};")), "the balancer knows {name}:{port}");
        }
        assert_eq!(balancer.matches("server node").count(), 3);
    });
    let image = read("Dockerfile");
    let command = image.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    assert_eq!(command, r#"["datasole", "serve"]"#);
}
