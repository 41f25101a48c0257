import Foundation

/// Two namespaces with an emulated path between them.
public final class Path: Sendable {
  public let left: TestNamespace
  public let right: TestNamespace
  private let emulator: Command

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
    emulator = try Command(
      [
        Products.path("path-emulator"), "--left", self.left.name ?? "init",
        "--right", self.right.name ?? "init",
        "--left-addr", "\(Self.leftAddress.v4)/24", "--right-addr", "\(Self.rightAddress.v4)/24",
        "--left-addr", "\(Self.leftAddress.v6)/64", "--right-addr", "\(Self.rightAddress.v6)/64",
        "--delay-ms", "\(delay)",
      ] + options)
    try await emulator.line(containing: "ready")
  }

  /// Buffers large enough that they are no limit, on both sides.
  public func setLargeBuffers() async throws {
    for end in [left, right] {
      try await end.set("net.ipv4.tcp_wmem", "4096 16384 67108864")
      try await end.set("net.ipv4.tcp_rmem", "4096 131072 67108864")
    }
  }

  /// Ends the emulator and deletes the namespaces; what the emulator counted.
  @discardableResult
  public func close() async -> String {
    emulator.signal(SIGTERM)
    _ = try? await emulator.wait()
    await left.delete()
    await right.delete()
    return emulator.output
  }
}
