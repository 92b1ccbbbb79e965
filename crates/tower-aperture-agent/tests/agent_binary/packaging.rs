//! The files in `packaging/` and the program agree: its options, probes, policies and limits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::program::{Folder, RunResult, Serving, program, run};
use crate::yaml;

/// Returns the path of a file of the repository.
fn file(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = own.ancestors().map(|folder| folder.join(name));
    let path = paths.find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is missing"))
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn object(name: &str) -> Value {
    yaml::parse(&text(&format!("packaging/kubernetes/{name}.yaml")))
}

/// Returns the pod that the Deployment describes, and its only container.
fn pod() -> (Value, Value) {
    let mut deployment = object("deployment");
    let pod = deployment["spec"]["template"]["spec"].take();
    let containers = pod["containers"].as_array().expect("containers");
    assert_eq!(containers.len(), 1);
    let container = containers[0].clone();
    (pod, container)
}

/// Returns the environment of the container: names and values.
fn environment(container: &Value) -> Vec<(&str, &str)> {
    let variables = container["env"].as_array().expect("variables");
    let variables = variables.iter().map(|variable| {
        let (name, value) = (variable["name"].as_str(), variable["value"].as_str());
        name.zip(value)
            .unwrap_or_else(|| panic!("{variable}: Kubernetes accepts only text"))
    });
    variables.collect()
}

fn value<'a>(environment: &[(&str, &'a str)], name: &str) -> &'a str {
    let name = format!("TOWER_APERTURE_AGENT_{name}");
    let mut variables = environment.iter();
    let variable = variables.find(|(variable, _)| *variable == name);
    variable.unwrap_or_else(|| panic!("{name} is not set")).1
}

/// Writes the files of a ConfigMap as the kubelet mounts them: links into a folder that is itself a
/// link, which is replaced as a whole.
fn mount(folder: &Folder, version: &str, files: &Value) {
    let folder = Path::new(folder.path());
    let own = folder.join(format!("..{version}"));
    fs::create_dir(&own).expect("a folder");
    for (name, text) in files.as_object().expect("files") {
        fs::write(own.join(name), text.as_str().expect("text")).expect("a file");
        if !folder.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), folder.join(name)).expect("a link");
        }
    }
    symlink(own.file_name().expect("a name"), folder.join("..new")).expect("a link");
    fs::rename(folder.join("..new"), folder.join("..data")).expect("the link is replaced");
}

#[test]
fn the_program_serves_the_kubernetes_example_and_follows_its_config_map() {
    let (_, container) = pod();
    let mut policies = object("policies")["data"].take();
    let folder = Folder::new();
    mount(&folder, "v1", &policies);
    assert_eq!(run(&["validate", folder.path()]).code, 0);

    let arguments = container["args"].as_array().expect("arguments");
    let arguments = arguments.iter().map(Value::as_str);
    let arguments: Vec<&str> = arguments.collect::<Option<_>>().expect("text");
    let mut command = program(&arguments);
    command
        .envs(environment(&container))
        .env("TOWER_APERTURE_AGENT_POLICIES", folder.path())
        .env("TOWER_APERTURE_AGENT_LISTEN", "127.0.0.1:0");
    let serving = Serving::of(command);
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str();
        let (status, body) = serving.get(path.expect("a path"));
        assert_eq!(status, 200, "{probe}: {body}");
    }
    let RunResult { code, out, .. } = serving.check(&["checkout", "user_id=1"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("4.00 remaining"), "{out}");

    let limit = policies["per-user-rate-limit.yaml"]
        .as_str()
        .expect("a policy");
    let changed = limit.replace("bucket_capacity: 5", "bucket_capacity: 50");
    assert_ne!(limit, changed);
    policies["per-user-rate-limit.yaml"] = changed.into();
    mount(&folder, "v2", &policies);
    serving.wait_for_log("policies were reloaded", 1);
    let RunResult { out, .. } = serving.check(&["checkout", "user_id=2"]);
    assert!(out.contains("49.00 remaining"), "{out}");
}

#[test]
fn the_kubernetes_objects_refer_to_each_other_and_to_options_of_the_program() {
    let (deployment, service) = (object("deployment"), object("service"));
    let (pod, container) = pod();
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);

    let port = &container["ports"][0];
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], port["name"], "{probe}");
    }
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    let environment = environment(&container);
    let listen = value(&environment, "LISTEN");
    let number = listen.rsplit_once(':').expect("a port").1;
    assert_eq!(port["containerPort"].to_string(), number);
    assert!(text("packaging/Containerfile").contains(&format!("EXPOSE {number}\n")));

    let mounted = &container["volumeMounts"][0];
    assert_eq!(mounted["mountPath"], value(&environment, "POLICIES"));
    assert_eq!(mounted.get("subPath"), None, "a subPath is never updated");
    assert_eq!(mounted["name"], pod["volumes"][0]["name"]);
    assert_eq!(
        pod["volumes"][0]["configMap"]["name"],
        object("policies")["metadata"]["name"]
    );

    let help = run(&["serve", "--help"]).out;
    let image = text("packaging/Containerfile");
    let image = image.split([' ', '\n']).filter_map(|word| {
        let (name, _) = word.split_once('=')?;
        name.starts_with("TOWER_APERTURE_AGENT_").then_some(name)
    });
    for name in environment.iter().map(|(name, _)| *name).chain(image) {
        assert!(help.contains(&format!("[env: {name}=")), "{name}");
    }
}

#[test]
fn the_container_runs_without_privileges_and_ends_within_its_grace_period() {
    let (pod, container) = pod();
    assert_eq!(pod["automountServiceAccountToken"], false);
    let context = &pod["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_ne!(context["runAsUser"], 0);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));

    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
    let help = run(&["serve", "--help"]).out;
    let help = help.split("--shutdown-grace").nth(1).expect("the option");
    let help = help.split("[default: ").nth(1).expect("its default");
    let shutdown = help.split("s]").next().and_then(|text| text.parse().ok());
    let (sleep, shutdown): (u64, u64) = sleep.zip(shutdown).expect("seconds");
    assert!(grace.expect("seconds") > sleep + shutdown);
}

#[test]
fn the_memory_limit_holds_what_the_budget_allows_callers() {
    const MIB: u64 = 1 << 20;
    let (_, container) = pod();
    let environment = environment(&container);
    let number = |name| -> u64 { value(&environment, name).parse().expect("a number") };
    let policies = object("policies")["data"].as_object().expect("files").len() as u64;
    // The section "The budget" in the documentation of `agent`.
    let budget = 4 * 64 * MIB
        // 8 KiB of each of the four kinds, and 32 KiB each to read and to write over HTTP/1.
        + number("MAX_CONNECTIONS") * (4 * 8 + 2 * 32) * 1024
        + number("MAX_WAITING") * 8 * 1024
        // The text of a key, and its state.
        + number("MAX_KEYS") * policies * (255 + 153)
        + number("CACHE_BYTES")
        // The program itself.
        + 32 * MIB;
    let limit = container["resources"]["limits"]["memory"].as_str();
    let limit = limit.and_then(|limit| limit.strip_suffix("Mi"));
    let limit: u64 = limit.and_then(|limit| limit.parse().ok()).expect("MiB");
    assert!(budget <= limit * MIB, "{} MiB of {limit}", budget / MIB);
    assert!(limit * MIB < budget * 5 / 4, "{} MiB", budget / MIB);
}

#[test]
fn an_image_is_built_without_the_history_and_earlier_builds() {
    let ignored = text(".dockerignore");
    for line in ["**/target", "/.git"] {
        assert!(ignored.lines().any(|ignored| ignored == line), "{line}");
    }
    let image = text("packaging/Containerfile");
    assert!(image.contains(":nonroot\n"));
    assert!(image.ends_with("CMD [\"serve\"]\n"));
}
