import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// udp-buffer with real datagrams: what is not needed at every build.
final class UDPBufferLongTests: UDPBufferTestCase {
  func testBurstsOfAProgramThatAsksForMoreThanItGets() async throws {
    let namespace = try await TestNamespace("asks")
    let without = try await jobs(12, burst: 2000, in: namespace, asking: 16 << 20)
    let daemon = try await daemon()
    let with = try await jobs(12, burst: 2000, in: namespace, asking: 16 << 20)
    let (initial, largest) = (try await value(0), try await value(1))
    try await daemon.stop()
    await namespace.delete()
    print("udp-buffer: asking for more: \(without) without, \(with) with the daemon")
    XCTAssertLessThanOrEqual(with.reduce(0, +) * 10, without.reduce(0, +))
    XCTAssertGreaterThan(Int(largest) ?? 0, 212_992)
    XCTAssertEqual(initial, Self.usual)
  }

  /// Its size is no limit of the machine's.
  func testAProgramThatHasChosenALittleBuffer() async throws {
    let namespace = try await TestNamespace("little")
    let daemon = try await daemon()
    let dropped = try await jobs(5, burst: 1000, in: namespace, asking: 50_000)
    try await daemon.stop()
    await namespace.delete()
    XCTAssertGreaterThan(dropped.min() ?? 0, 500)
    XCTAssertEqual(daemon.changes(of: "net.core.rmem"), [])
    try await unchanged()
  }

  func testABroadcastStorm() async throws {
    let (near, far) = (try await TestNamespace("near"), try await TestNamespace("far"))
    try await execute(
      "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", far.name ?? "",
      netns: near.name)
    for (namespace, device, address) in [(near, "v0", "10.9.0.1/24"), (far, "v1", "10.9.0.2/24")] {
      try await execute(
        "ip", "addr", "add", address, "brd", "+", "dev", device, netns: namespace.name)
      try await execute("ip", "link", "set", device, "up", netns: namespace.name)
    }
    let daemon = try await daemon()
    async let storm: Void = far.inside {
      guard let sender = try? DatagramSocket() else { return }
      for _ in 0..<15 {
        sender.send(1000, to: "10.9.0.255", 5000)
        usleep(100_000)
      }
    }
    let received = try await near.inside { () -> Int in
      guard let reader = try? DatagramSocket(port: 5000) else { return -1 }
      return (0..<10).map { _ in
        usleep(200_000)
        return reader.drain()
      }.reduce(0, +)
    }
    try await storm
    _ = try await daemon.line(containing: "drops broadcasts")
    try await daemon.stop()
    await near.delete()
    await far.delete()
    XCTAssertGreaterThan(received, 0)
    try await unchanged()
  }

  // MARK: The memory of UDP

  func testMemoryOfUDPThatIsTooShort() async throws {
    let namespace = try await TestNamespace("memory")
    try await TestNamespace.initial.set(Self.names[0], "4194304")
    // Each processor takes up to 1 MiB in advance.
    try await TestNamespace.initial.set(Self.names[2], "100 200 400")
    let without = try await jobs(10, burst: 3000, in: namespace)
    let daemon = try await daemon()
    let with = try await jobs(10, burst: 3000, in: namespace)
    let memory = try await value(2)
    try await daemon.stop()
    await namespace.delete()
    print("udp-buffer: short of memory: \(without) without, \(with) with the daemon; \(memory)")
    XCTAssertGreaterThan(without.reduce(0, +), 1000)
    XCTAssertLessThan(with.suffix(5).reduce(0, +) * 10, without.suffix(5).reduce(0, +))
  }

  // MARK: Back to what it was

  /// With seconds in place of minutes.
  func testGoesBackWhenQuiet() async throws {
    let tuner = try await OneTuner {
      UDPBuffer(
        learningRate: $0,
        times: UDPBuffer.Times(interval: .milliseconds(200), quiet: .milliseconds(1200)))
    }
    let namespace = try await TestNamespace("back")
    _ = try await jobs(4, burst: 1500, in: namespace)
    let raised = try await value(0)
    try await eventually("the usual size") { try await self.value(0) == Self.usual }
    await tuner.stop()
    await namespace.delete()
    XCTAssertNotEqual(raised, Self.usual)
    // Nothing is raised: no timer runs, and so no more is reported.
    let count = tuner.lines.all.count
    try await Task.sleep(for: .milliseconds(500))
    XCTAssertEqual(tuner.lines.all.count, count)
  }

  func testDryRunChangesNothing() async throws {
    let namespace = try await TestNamespace("dry")
    let daemon = try await Daemon("--allow", "udp-buffer", "--dry-run")
    _ = try await jobs(3, burst: 1500, in: namespace)
    _ = try await daemon.line(containing: "advice: net.core.rmem_default 212992 -> ")
    try await daemon.stop()
    await namespace.delete()
    try await unchanged()
  }
}
