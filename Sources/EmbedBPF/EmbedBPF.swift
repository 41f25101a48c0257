// Compiles every *.bpf.c of a folder with the toolchain's clang and writes the
// objects into one Swift file, as base64 (a literal of bytes takes minutes to
// compile). Runs at build time, from the EmbedBPFObjects plugin.
import Foundation

struct Failure: Error, CustomStringConvertible {
  let description: String
}

@main
struct EmbedBPF {
  static func main() {
    do {
      let arguments = CommandLine.arguments
      guard arguments.count == 4 else {
        throw Failure(description: "usage: EmbedBPF BPF-DIRECTORY HEADER-DIRECTORY OUTPUT.swift")
      }
      try run(sources: arguments[1], headers: arguments[2], output: arguments[3])
    } catch {
      FileHandle.standardError.write(Data("error: \(error)\n".utf8))
      exit(1)
    }
  }

  static func run(sources: String, headers: String, output: String) throws {
    let suffix = ".bpf.c"
    let files = try FileManager.default.contentsOfDirectory(atPath: sources)
      .filter { $0.hasSuffix(suffix) }.sorted()
    let directory = (output as NSString).deletingLastPathComponent
    let clang = try findClang()

    var swift = "// Generated from bpf/*.bpf.c. Do not edit.\n\n"
    swift += "/// The BPF objects in this executable, by the name of their source in `bpf/`.\n"
    swift += "enum EmbeddedBPF {\n  static let objects: [String: StaticString] = [\n"
    for file in files {
      let name = String(file.dropLast(suffix.count))
      let object = "\(directory)/\(name).bpf.o"
      try compile(
        clang: clang, source: "\(sources)/\(file)", includes: [sources, headers], object: object)
      let bytes = try Data(contentsOf: URL(fileURLWithPath: object))
      swift += "    \"\(name)\": \"\(bytes.base64EncodedString())\",\n"
    }
    swift += "  ]\n}\n"
    try swift.write(toFile: output, atomically: true, encoding: .utf8)
  }

  /// The clang beside the running `swift`, or the first on the PATH.
  static func findClang() throws -> String {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
    for directory in path.split(separator: ":") {
      let candidate = "\(directory)/clang"
      if FileManager.default.isExecutableFile(atPath: candidate) { return candidate }
    }
    throw Failure(description: "no clang on the PATH (it comes with the Swift toolchain)")
  }

  static func compile(clang: String, source: String, includes: [String], object: String) throws {
    #if arch(x86_64)
      let (target, multiarch) = ("x86", "x86_64-linux-gnu")
    #elseif arch(arm64)
      let (target, multiarch) = ("arm64", "aarch64-linux-gnu")
    #endif
    var arguments = [
      "-target", "bpf", "-mcpu=v2", "-g", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
      "-Wno-unused-parameter",  // BPF_PROG() has a context that few programs use
      "-D__TARGET_ARCH_\(target)", "-isystem", "/usr/include/\(multiarch)",
      // Paths would make the object depend on where it was built.
      "-fdebug-prefix-map=\((source as NSString).deletingLastPathComponent)=bpf",
      "-fdebug-compilation-dir=.",
    ]
    arguments += includes.flatMap { ["-I", $0] } + ["-c", source, "-o", object]
    let process = Process()
    process.executableURL = URL(fileURLWithPath: clang)
    process.arguments = arguments
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
      throw Failure(
        description: "\(source) does not compile (are libbpf-dev and linux-libc-dev installed?)")
    }
    // The debug information that remains is BTF: all that libbpf reads.
    let strip = Process()
    strip.executableURL = URL(fileURLWithPath: clang).deletingLastPathComponent()
      .appendingPathComponent("llvm-objcopy")
    guard FileManager.default.isExecutableFile(atPath: strip.executableURL?.path ?? "") else {
      return
    }
    strip.arguments = ["--strip-debug", object]
    try strip.run()
    strip.waitUntilExit()
  }
}
