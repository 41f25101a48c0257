import CShims
import Foundation

/// A network namespace of a test's own, under /run/netns; gone with the value.
public final class TestNamespace: Sendable {
  /// Nil for the namespace that the test runs in.
  public let name: String?

  /// The namespace that the test runs in.
  public static let initial = TestNamespace(existing: nil)

  private init(existing: String?) { name = existing }

  public init(_ label: String) async throws {
    let name = "bt-\(ProcessInfo.processInfo.processIdentifier)-\(label)"
    self.name = name
    _ = try? await execute("ip", "netns", "del", name)
    try await execute("ip", "netns", "add", name)
    try await execute("ip", "link", "set", "lo", "up", netns: name)
  }

  /// Deletes it. What is still running inside keeps it alive.
  public func delete() async {
    if let name { _ = try? await execute("ip", "netns", "del", name) }
  }

  deinit {
    // A test that failed half way leaves nothing behind either.
    guard let name else { return }
    let path = "/run/netns/\(name)"
    if umount2(path, Int32(MNT_DETACH)) == 0 { unlink(path) }
  }

  /// A sysctl here, in words: `4096 131072 33554432`.
  public func sysctl(_ tunable: String) async throws -> String {
    try await execute("sysctl", "-n", tunable, netns: name)
      .split(whereSeparator: \.isWhitespace).joined(separator: " ")
  }

  /// Sets a sysctl as an administrator would.
  public func set(_ tunable: String, _ value: String) async throws {
    try await execute("sysctl", "-qw", "\(tunable)=\(value)", netns: name)
  }

  /// The third number of a triple.
  public func maximum(_ tunable: String) async throws -> Int {
    Int(try await sysctl(tunable).split(separator: " ").last ?? "") ?? -1
  }

  public var inode: UInt64 {
    let path = name.map { "/run/netns/\($0)" } ?? "/proc/self/ns/net"
    var status = stat()
    return stat(path, &status) == 0 ? UInt64(status.st_ino) : 0
  }

  /// Makes something in this namespace, such as a socket, on a thread of its own.
  public func inside<R: Sendable>(_ body: @escaping @Sendable () -> R) async throws -> R {
    try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread { [name] in
        if let name {
          let fd = open("/run/netns/\(name)", O_RDONLY | O_CLOEXEC)
          defer { close(fd) }
          // Back again before anything else runs: a thread that is started from
          // this one, also for the pool of tasks, would be in there, too.
          let own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
          defer { close(own) }
          guard fd >= 0, own >= 0, bpftune_netns_enter(fd) == 0 else {
            return continuation.resume(throwing: Command.Failure("cannot enter \(name)"))
          }
          let result = body()
          guard bpftune_netns_enter(own) == 0 else {
            return continuation.resume(throwing: Command.Failure("cannot come back from \(name)"))
          }
          return continuation.resume(returning: result)
        }
        continuation.resume(returning: body())
      }
    }
  }
}

/// Values of sysctls that a test is going to change in the namespace that it
/// runs in, to be put back whatever happens.
public struct SavedSysctls: Sendable {
  private var values: [(String, String)] = []

  public init(_ names: String...) async throws { try await self.init(names) }

  public init(_ names: [String]) async throws {
    for name in names { values.append((name, try await TestNamespace.initial.sysctl(name))) }
  }

  public func restore() async {
    for (name, value) in values { try? await TestNamespace.initial.set(name, value) }
  }
}
