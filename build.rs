//! Compiles `proto/` without `protoc`. Does nothing unless the Agent's protocol is wanted.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");

    #[cfg(feature = "remote")]
    {
        let descriptors = protox::compile(
            [
                "aperture/flowcontrol/check/v1/check.proto",
                "aperture/flowcontrol/checkhttp/v1/checkhttp.proto",
                "opentelemetry/proto/collector/trace/v1/trace_service.proto",
            ],
            ["proto"],
        )?;
        tonic_prost_build::configure()
            .bytes(".aperture.flowcontrol.check.v1")
            .include_file("pb.rs")
            .compile_fds(descriptors)?;
    }
    Ok(())
}
