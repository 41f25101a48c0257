import Foundation
import Synchronization

/// A program that a test runs; its output is kept line by line.
///
/// It is killed, by its own pid, when the test lets go of it.
public final class Command: @unchecked Sendable {
  // Safe: `process` is set up in `init` and only asked for its state later.

  public struct Failure: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
  }

  /// What it has printed; on its own, so that the thread that reads does not
  /// keep the command alive.
  private final class Printed: Sendable {
    private let state = Mutex((lines: [String](), rest: Data()))

    func take(_ data: Data) {
      state.withLock { state in
        state.rest += data
        while let end = state.rest.firstIndex(of: UInt8(ascii: "\n")) {
          state.lines.append(String(decoding: state.rest[..<end], as: UTF8.self))
          state.rest = Data(state.rest[(end + 1)...])
        }
      }
    }

    var lines: [String] {
      state.withLock { state in
        state.lines + (state.rest.isEmpty ? [] : [String(decoding: state.rest, as: UTF8.self)])
      }
    }
  }

  private let process = Process()
  private let printed = Printed()
  private let title: String
  private let reader = DispatchQueue(label: "command output")
  private let outputEnded = DispatchSemaphore(value: 0)

  /// Starts it. `netns` is the name of the namespace to run in.
  public init(
    _ arguments: [String], netns: String? = nil, environment: [String: String] = [:]
  ) throws {
    let all = (netns.map { ["ip", "netns", "exec", $0] } ?? []) + arguments
    title = all.joined(separator: " ")
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = all
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    process.standardInput = FileHandle.nullDevice
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    // Threads of the cooperative pool block signals, and a child inherits that.
    var mask = sigset_t()
    var empty = sigset_t()
    sigemptyset(&empty)
    pthread_sigmask(SIG_SETMASK, &empty, &mask)
    defer { pthread_sigmask(SIG_SETMASK, &mask, nil) }
    try process.run()
    let handle = pipe.fileHandleForReading
    reader.async { [printed, outputEnded] in
      while case let data = handle.availableData, !data.isEmpty { printed.take(data) }
      outputEnded.signal()
    }
  }

  deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

  public var pid: Int32 { process.processIdentifier }
  public var isRunning: Bool { process.isRunning }

  public var lines: [String] { printed.lines }
  public var output: String { lines.joined(separator: "\n") }

  public func signal(_ number: Int32) { kill(pid, number) }

  /// Waits for it to end; its exit status, or 128 and the signal.
  @discardableResult
  public func wait(upTo seconds: Double = 30) async throws -> Int32 {
    try await eventually(upTo: seconds, "\(title) to end") { !self.process.isRunning }
    // The pipe may be held open by a child that lives on: do not wait for ever.
    _ = await withCheckedContinuation { continuation in
      DispatchQueue.global().async {
        continuation.resume(returning: self.outputEnded.wait(timeout: .now() + patience))
      }
    }
    return process.terminationReason == .exit
      ? process.terminationStatus : 128 + process.terminationStatus
  }

  /// Waits for a line of output that contains `text`.
  @discardableResult
  public func line(containing text: String, upTo seconds: Double = 10) async throws -> String {
    var found: String?
    do {
      try await eventually(upTo: seconds, "\"\(text)\" from \(title)") {
        found = self.lines.first { $0.contains(text) }
        return found != nil || !self.process.isRunning
      }
    } catch {
      throw Failure("\(error); it said:\n\(output)")
    }
    if found == nil { try await wait() }
    guard let line = found ?? lines.first(where: { $0.contains(text) }) else {
      throw Failure("\(title) ended without \"\(text)\"; it said:\n\(output)")
    }
    return line
  }
}

/// Runs a program to its end; its output. Throws when it fails.
@discardableResult
public func execute(_ arguments: String..., netns: String? = nil, upTo seconds: Double = 30)
  async throws -> String
{
  let command = try Command(arguments, netns: netns)
  let status = try await command.wait(upTo: seconds)
  guard status == 0 else {
    throw Command.Failure("\(arguments.joined(separator: " ")): exit \(status): \(command.output)")
  }
  return command.output
}

/// By how much waiting takes longer here than on an ordinary machine: emulated
/// guests are ten to twenty times slower.
private let patience =
  Double(ProcessInfo.processInfo.environment["BPFTUNE_TEST_PATIENCE"] ?? "") ?? 1

/// Waits until something is so. Generous limits cost nothing when all is well.
public func eventually(
  upTo seconds: Double = 10, _ what: String, _ isSo: () async throws -> Bool
) async throws {
  let deadline = ContinuousClock.now + .seconds(seconds * patience)
  while ContinuousClock.now < deadline {
    if try await isSo() { return }
    try await Task.sleep(for: .milliseconds(20))
  }
  throw Command.Failure("waited \(seconds * patience) s for \(what)")
}
