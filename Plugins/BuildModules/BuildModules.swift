import Foundation
import PackagePlugin

/// Builds the sample tuners, and those that misbehave for the tests, as a project
/// outside of this package would; tells the target where they are.
@main
struct BuildModules: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
    let package = context.package.directoryURL
    let headers = [
      package.appending(path: "bpf"), package.appending(path: "Sources/CShims/include"),
    ]
    let sources = ["Samples", "Tests/Modules"].map { package.appending(path: $0) }
    let output = context.pluginWorkDirectoryURL.appending(path: "modules")
    let list = context.pluginWorkDirectoryURL.appending(path: "BuiltModules.swift")
    var inputs = headers.flatMap { files(in: $0).filter { $0.pathExtension == "h" } }
    inputs += sources.flatMap { files(in: $0) }
    return [
      .buildCommand(
        displayName: "Building tuners as shared objects",
        executable: URL(filePath: "/bin/sh"),
        arguments: [
          package.appending(path: "Tests/Modules/build").path, output.path, list.path,
        ] + headers.map(\.path),
        inputFiles: inputs, outputFiles: [list])
    ]
  }

  private func files(in directory: URL) -> [URL] {
    let all = FileManager.default.enumerator(at: directory, includingPropertiesForKeys: nil)
    return (all?.compactMap { $0 as? URL } ?? []).filter { !$0.hasDirectoryPath }
  }
}
