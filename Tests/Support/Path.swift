import Foundation
import Synchronization

/// Two namespaces with an emulated path between them.
public final class Path: Sendable {
  public let left: TestNamespace
  public let right: TestNamespace
  /// Nil where the kernel itself makes the path what it is.
  private let emulator: Mutex<Command?>

  /// Addresses of the two ends, by version.
  public static let leftAddress = (v4: "10.98.1.1", v6: "fd98::1")
  public static let rightAddress = (v4: "10.98.1.2", v6: "fd98::2")

  /// One way, in milliseconds. A guest's processor is emulated and carries less,
  /// so its paths are longer: limits then show at lower rates.
  public static var ordinaryDelay: Double { Guest.isHere ? 50 : 10 }

  /// `delay` is one way, in milliseconds, and goes for both directions.
  public init(
    delay: Double, options: [String] = [], left: TestNamespace? = nil, right: TestNamespace? = nil
  ) async throws {
    if let left { self.left = left } else { self.left = try await TestNamespace("left") }
    if let right { self.right = right } else { self.right = try await TestNamespace("right") }
    emulator = Mutex(nil)
    try await emulate(delay: delay, options: options)
  }

  /// Makes the path another one, in place of what it was; connections over it end.
  public func emulate(delay: Double, options: [String]) async throws {
    await stopEmulator()
    let new = try Command(
      [
        Products.path("path-emulator"), "--left", left.name ?? "init",
        "--right", right.name ?? "init",
        "--left-addr", "\(Self.leftAddress.v4)/24", "--right-addr", "\(Self.rightAddress.v4)/24",
        "--left-addr", "\(Self.leftAddress.v6)/64", "--right-addr", "\(Self.rightAddress.v6)/64",
        "--delay-ms", "\(delay)",
      ] + options)
    emulator.withLock { $0 = new }
    try await new.line(containing: "ready")
  }

  /// What it counted; nothing where there is none.
  @discardableResult
  private func stopEmulator() async -> String {
    let old = emulator.withLock { $0 }
    old?.signal(SIGTERM)
    _ = try? await old?.wait()
    return old?.output ?? ""
  }

  /// A pair of virtual devices with netem(8) on the left one: `loss 10%`. Fails
  /// where the kernel has no netem.
  public init(netem options: String) async throws {
    left = try await TestNamespace("left")
    right = try await TestNamespace("right")
    emulator = Mutex(nil)
    try await execute(
      "ip", "link", "add", "path0", "type", "veth", "peer", "name", "path0", "netns",
      right.name ?? "init", netns: left.name)
    for (end, v4, v6) in [
      (left, Self.leftAddress.v4, Self.leftAddress.v6),
      (right, Self.rightAddress.v4, Self.rightAddress.v6),
    ] {
      try await execute("ip", "addr", "add", "\(v4)/24", "dev", "path0", netns: end.name)
      try await execute(
        "ip", "addr", "add", "\(v6)/64", "dev", "path0", "nodad", netns: end.name)
      try await execute("ip", "link", "set", "path0", "up", netns: end.name)
    }
    do {
      try await execute(
        "sh", "-c", "tc qdisc add dev path0 root netem \(options)", netns: left.name)
    } catch {
      await left.delete()
      await right.delete()
      throw error
    }
  }

  /// Whether this kernel has netem, or a module of it.
  public static func hasNetem() async -> Bool {
    guard let path = try? await Path(netem: "limit 1000") else { return false }
    await path.close()
    return true
  }

  /// Buffers large enough that they are no limit, on both sides.
  public func setLargeBuffers() async throws {
    for end in [left, right] {
      try await end.set("net.ipv4.tcp_wmem", "4096 16384 67108864")
      try await end.set("net.ipv4.tcp_rmem", "4096 131072 67108864")
    }
  }

  /// Nothing arrives for so long, and then all of it.
  public func stall(for duration: Duration) async throws {
    let emulator = emulator.withLock { $0 }
    emulator?.signal(SIGSTOP)
    try await Task.sleep(for: duration)
    emulator?.signal(SIGCONT)
  }

  /// Ends the emulator and deletes the namespaces; what the emulator counted.
  @discardableResult
  public func close() async -> String {
    let output = await stopEmulator()
    await left.delete()
    await right.delete()
    return output
  }
}
