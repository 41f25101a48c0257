import Foundation
import PackagePlugin

/// Builds `bpf/*.bpf.c` and embeds the objects in the target as Swift source.
@main
struct EmbedBPFObjects: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
    let package = context.package.directoryURL
    let sources = package.appending(path: "bpf")
    let headers = package.appending(path: "Sources/CShims/include")
    let output = context.pluginWorkDirectoryURL.appending(path: "EmbeddedBPF.swift")
    let tool = try context.tool(named: "EmbedBPF")
    let inputs = try FileManager.default
      .contentsOfDirectory(at: sources, includingPropertiesForKeys: nil)
      .filter { ["c", "h"].contains($0.pathExtension) }
    return [
      .buildCommand(
        displayName: "Building BPF objects for \(target.name)",
        executable: tool.url,
        arguments: [sources.path, headers.path, output.path],
        inputFiles: inputs + [headers.appending(path: "bpftune_event.h")],
        outputFiles: [output])
    ]
  }
}
