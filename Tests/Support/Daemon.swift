import Foundation

/// The products of the build that the tests belong to.
public enum Products {
  /// Path of an executable that was built together with the tests.
  public static func path(_ name: String) -> String {
    // The test bundle and the benchmark lie in the same folder as the products.
    let folder =
      Bundle.allBundles.first { $0.bundlePath.hasSuffix(".xctest") }?.bundleURL
      .deletingLastPathComponent()
      ?? URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
    return folder.appendingPathComponent(name).path
  }
}

/// A running bpftune.
public final class Daemon: Sendable {
  public let command: Command
  /// Where it keeps its state: a directory of its own, which goes with the
  /// value, unless the options name one.
  public let stateDirectory: String
  private let isOwnDirectory: Bool

  /// Starts it and waits until it tunes.
  public convenience init(_ options: String..., environment: [String: String] = [:]) async throws {
    try await self.init(options: options, environment: environment)
  }

  public init(options: [String], environment: [String: String] = [:]) async throws {
    var options = options
    if let index = options.firstIndex(of: "--state-dir"), index + 1 < options.count {
      stateDirectory = options[index + 1]
      isOwnDirectory = false
    } else {
      stateDirectory = NSTemporaryDirectory() + "bpftune-" + UUID().uuidString
      isOwnDirectory = true
      options += ["--state-dir", stateDirectory]
    }
    let arguments = [Products.path("bpftune"), "--foreground", "--verbose"] + options
    // Another run of tests on this machine may have its daemon up: take turns.
    var command = try Command(arguments, environment: environment)
    try await eventually(upTo: 60, "the daemon") {
      if command.output.contains("already running") {
        command = try Command(arguments, environment: environment)
        try await Task.sleep(for: .milliseconds(300))
      }
      return command.output.contains("bpftune 0.")
        || !command.isRunning && !command.output.contains("already running")
    }
    self.command = command
    try await command.line(containing: "bpftune 0.", upTo: 20)
  }

  deinit {
    if isOwnDirectory { try? FileManager.default.removeItem(atPath: stateDirectory) }
  }

  /// Stops it as an administrator does; its exit status.
  @discardableResult
  public func stop() async throws -> Int32 {
    command.signal(SIGTERM)
    return try await command.wait(upTo: 10)
  }

  @discardableResult
  public func line(containing text: String, upTo seconds: Double = 10) async throws -> String {
    try await command.line(containing: text, upTo: seconds)
  }

  public var lines: [String] { command.lines }

  /// The lines that report a change of this tunable.
  public func changes(of tunable: String) -> [String] {
    lines.filter { $0.contains("\(tunable) ") && $0.contains(" -> ") && !$0.contains("advice") }
  }

  /// Whether it says that an administrator has disabled a tuner there.
  public func isDisabled(in namespace: TestNamespace) -> Bool {
    lines.contains { $0.contains("is disabled in netns \(namespace.inode)") }
  }

  /// How many descriptors it holds.
  public var descriptors: Int {
    (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(command.pid)/fd").count) ?? -1
  }

  /// Anonymous memory that is resident, in KiB (`RssAnon` of /proc/PID/status).
  public var anonymousMemory: Int { status("RssAnon:") }
  /// All memory that is resident, in KiB.
  public var residentMemory: Int { status("VmRSS:") }
  /// How often it went to sleep of its own accord.
  public var voluntarySwitches: Int { status("voluntary_ctxt_switches:") }

  /// Microseconds of CPU time used so far, all threads.
  public var cpuMicroseconds: Int {
    let path = "/proc/\(command.pid)/schedstat"
    let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    return (Int(text.split(separator: " ").first ?? "") ?? 0) / 1000
  }

  private func status(_ key: String) -> Int {
    let path = "/proc/\(command.pid)/status"
    let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    let line = text.split(separator: "\n").first { $0.hasPrefix(key) } ?? ""
    return Int(line.dropFirst(key.count).split(whereSeparator: \.isWhitespace).first ?? "") ?? -1
  }
}
