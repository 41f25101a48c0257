import Foundation
import Synchronization

/// A program that a test runs; its output is kept line by line.
///
/// It is killed, by its own pid, when the test lets go of it. Foundation's
/// `Process` does not serve here: on a slow machine it misses that a child has
/// ended, and waits for ever.
public final class Command: Sendable {
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

  public let pid: pid_t
  /// As waitpid(2) gives it, once it has ended.
  private let status = Mutex<Int32?>(nil)
  private let printed = Printed()
  private let title: String
  private let outputEnded = DispatchSemaphore(value: 0)

  /// Starts it. `netns` is the name of the namespace to run in.
  public init(
    _ arguments: [String], netns: String? = nil, environment: [String: String] = [:]
  ) throws {
    let all = (netns.map { ["ip", "netns", "exec", $0] } ?? []) + arguments
    title = all.joined(separator: " ")
    let (pid, output) = try Self.spawning.withLock { _ in try Self.spawn(all, environment) }
    self.pid = pid
    let handle = FileHandle(fileDescriptor: output, closeOnDealloc: true)
    DispatchQueue(label: "command output").async { [printed, outputEnded] in
      while case let data = handle.availableData, !data.isEmpty { printed.take(data) }
      outputEnded.signal()
    }
  }

  /// One at a time: no child inherits the pipe of another.
  private static let spawning = Mutex(())

  /// The child, and the end of the pipe that its output comes out of.
  private static func spawn(
    _ arguments: [String], _ environment: [String: String]
  ) throws -> (pid_t, Int32) {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw Failure("no pipe for \(arguments[0])") }
    defer { close(ends[1]) }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
    // Threads of the cooperative pool block signals, and a child inherits that.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

    let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    var argv = arguments.map { strdup($0) } + [nil]
    var envp = variables.map { strdup("\($0)=\($1)") } + [nil]
    defer { (argv + envp).forEach { free($0) } }
    var pid: pid_t = -1
    let error = posix_spawnp(&pid, arguments[0], &actions, &attributes, &argv, &envp)
    guard error == 0 else {
      close(ends[0])
      throw Failure("cannot run \(arguments[0]): \(String(cString: strerror(error)))")
    }
    return (pid, ends[0])
  }

  deinit {
    guard isRunning else { return }
    kill(pid, SIGKILL)
    waitpid(pid, nil, 0)
  }

  public var isRunning: Bool {
    status.withLock { status in
      guard status == nil else { return false }
      var now: Int32 = 0
      if waitpid(pid, &now, WNOHANG) == pid { status = now }
      return status == nil
    }
  }

  public var lines: [String] { printed.lines }
  public var output: String { lines.joined(separator: "\n") }

  /// Sends it a signal, unless it has ended.
  public func signal(_ number: Int32) {
    if isRunning { kill(pid, number) }
  }

  /// Waits for it to end; its exit status, or 128 and the signal.
  @discardableResult
  public func wait(upTo seconds: Double = 30) async throws -> Int32 {
    try await eventually(upTo: seconds, "\(title) to end") { !self.isRunning }
    // The pipe may be held open by a child that lives on: do not wait for ever.
    _ = await withCheckedContinuation { continuation in
      DispatchQueue.global().async {
        continuation.resume(returning: self.outputEnded.wait(timeout: .now() + patience))
      }
    }
    let ended = status.withLock { $0 } ?? 0
    let signal = ended & 0x7f
    return signal == 0 ? ended >> 8 & 0xff : 128 + signal
  }

  /// Waits for a line of output that contains `text`.
  @discardableResult
  public func line(containing text: String, upTo seconds: Double = 10) async throws -> String {
    var found: String?
    do {
      try await eventually(upTo: seconds, "\"\(text)\" from \(title)") {
        found = self.lines.first { $0.contains(text) }
        return found != nil || !self.isRunning
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
let patience =
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
