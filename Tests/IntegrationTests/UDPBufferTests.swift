import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// udp-buffer with real datagrams, each test in a namespace of its own.
final class UDPBufferTests: IntegrationTestCase {
  private static let names = [
    "net.core.rmem_default", "net.core.rmem_max", "net.ipv4.udp_mem",
  ]
  /// The kernel's own size, in bytes: room for some 280 small datagrams.
  private static let usual = "212992"
  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    saved = try await SavedSysctls(Self.names)
    for name in Self.names.prefix(2) { try await TestNamespace.initial.set(name, Self.usual) }
  }

  override func tearDown() async throws {
    await saved?.restore()
    try await super.tearDown()
  }

  private func value(_ index: Int) async throws -> String {
    try await TestNamespace.initial.sysctl(Self.names[index])
  }

  private func daemon(_ options: String...) async throws -> Daemon {
    try await Daemon("--allow", "udp-buffer")
  }

  /// A program that reads what comes, but not while a burst comes; it opens a
  /// socket for each job, and a job is one burst. Datagrams dropped in each.
  private func jobs(
    _ count: Int, burst: Int, in namespace: TestNamespace, asking: Int32? = nil
  ) async throws -> [Int] {
    try await namespace.inside {
      (0..<count).map { _ in
        guard let reader = try? DatagramSocket(port: 5000, receiveBuffer: asking),
          let sender = try? DatagramSocket()
        else { return -1 }
        sender.send(burst, 5000)
        let received = reader.drain()
        usleep(100_000)
        return burst - received
      }
    }
  }

  // MARK: Bursts

  func testBurstsThatTheDefaultHasNoRoomFor() async throws {
    let namespace = try await TestNamespace("burst")
    let without = try await jobs(20, burst: 1500, in: namespace)
    let daemon = try await daemon()
    let with = try await jobs(20, burst: 1500, in: namespace)
    let raised = try await value(0)
    try await daemon.stop()
    await namespace.delete()
    print("udp-buffer: dropped in each burst: \(without) without, \(with) with the daemon")
    XCTAssertGreaterThan(without.min() ?? 0, 500)
    XCTAssertLessThanOrEqual(with.reduce(0, +) * 10, without.reduce(0, +))
    XCTAssertEqual(with.suffix(10).max(), 0)
    XCTAssertLessThan(Int(raised) ?? 0, 8 << 20)
    XCTAssertLessThanOrEqual(daemon.changes(of: Self.names[0]).count, 4)
    let largest = try await value(1)
    XCTAssertEqual(largest, Self.usual, "nobody has asked for more")
  }

  func testBurstsOfAProgramThatAsksForMoreThanItGets() async throws {
    let namespace = try await TestNamespace("asks")
    let without = try await jobs(20, burst: 2000, in: namespace, asking: 16 << 20)
    let daemon = try await daemon()
    let with = try await jobs(20, burst: 2000, in: namespace, asking: 16 << 20)
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

  /// One raise, and word of who has to open its socket anew.
  func testASocketThatIsOlderThanTheRaise() async throws {
    let namespace = try await TestNamespace("older")
    let daemon = try await daemon()
    let dropped = try await namespace.inside { () -> [Int] in
      guard let reader = try? DatagramSocket(port: 5000), let sender = try? DatagramSocket()
      else { return [] }
      return (0..<15).map { _ in
        sender.send(1500, 5000)
        let received = reader.drain()
        usleep(100_000)
        return 1500 - received
      }
    }
    let line = try await daemon.line(containing: "until its program opens it anew")
    try await daemon.stop()
    await namespace.delete()
    XCTAssertGreaterThan(dropped.min() ?? 0, 500, "it keeps its buffer")
    XCTAssertTrue(line.contains("port 5000"), line)
    XCTAssertEqual(daemon.changes(of: Self.names[0]).count, 1)
    XCTAssertEqual(daemon.lines.count { $0.contains("until its program opens it anew") }, 1)
  }

  // MARK: Other causes

  private func unchanged() async throws {
    let now = [try await value(0), try await value(1)]
    XCTAssertEqual(now, [Self.usual, Self.usual])
  }

  func testAProgramThatSleeps() async throws {
    let namespace = try await TestNamespace("asleep")
    let daemon = try await daemon()
    try await namespace.inside {
      guard let reader = try? DatagramSocket(port: 5000), let sender = try? DatagramSocket()
      else { return }
      for _ in 0..<30 {
        sender.send(300, 5000)
        usleep(100_000)
      }
      reader.drain(most: 1)
    }
    _ = try await daemon.line(containing: "does not read, or reads too slowly")
    try await daemon.stop()
    await namespace.delete()
    try await unchanged()
  }

  /// It reads without a break, at half the rate at which datagrams come.
  func testAProgramThatIsTooSlow() async throws {
    let namespace = try await TestNamespace("slow")
    let daemon = try await daemon()
    let read = try await namespace.inside { () -> Int in
      guard let reader = try? DatagramSocket(port: 5000), let sender = try? DatagramSocket()
      else { return -1 }
      return (0..<300).map { _ in
        sender.send(40, 5000)
        usleep(10_000)
        return reader.drain(most: 20)
      }.reduce(0, +)
    }
    _ = try await daemon.line(containing: "does not read, or reads too slowly")
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(read, 6000)
    try await unchanged()
  }

  func testAFloodAtAClosedPort() async throws {
    let namespace = try await TestNamespace("closed")
    let daemon = try await daemon()
    let before = try await namespace.counter("Udp", "NoPorts")
    try await namespace.inside {
      guard let sender = try? DatagramSocket() else { return }
      sender.send(50_000, 5001)
    }
    let flood = try await namespace.counter("Udp", "NoPorts") - before
    try await daemon.stop()
    await namespace.delete()
    XCTAssertGreaterThan(flood, 20_000)
    XCTAssertFalse(daemon.lines.contains { $0.contains("udp-buffer: ") }, "nothing reaches it")
    try await unchanged()
  }

  func testABroadcastStorm() async throws {
    let (near, far) = (try await TestNamespace("near"), try await TestNamespace("far"))
    try await execute(
      "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", far.name ?? "",
      netns: near.name)
    for (namespace, device, address) in [(near, "v0", "10.9.0.1/24"), (far, "v1", "10.9.0.2/24")] {
      try await execute("ip", "addr", "add", address, "brd", "+", "dev", device, netns: namespace.name)
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
    let without = try await jobs(10, burst: 4000, in: namespace)
    let daemon = try await daemon()
    let with = try await jobs(10, burst: 4000, in: namespace)
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
