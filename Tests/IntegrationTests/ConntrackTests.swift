import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// conntrack with real connections, each test in a namespace of its own.
final class ConntrackTests: IntegrationTestCase {
  private static let names = [
    "net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets",
  ]
  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    // Loads the modules, where they are any.
    let namespace = try await Self.namespace("load", "ct state new counter")
    await namespace.delete()
    saved = try await SavedSysctls(Self.names)
    try await TestNamespace.initial.set(Self.names[0], "200")
    try await TestNamespace.initial.set(Self.names[1], "512")
  }

  override func tearDown() async throws {
    await saved?.restore()
    try await super.tearDown()
  }

  private func values() async throws -> [Int] {
    var values: [Int] = []
    for name in Self.names {
      values.append(Int(try await TestNamespace.initial.sysctl(name)) ?? -1)
    }
    return values
  }

  /// A namespace where a rule looks at all that goes out.
  private static func namespace(_ label: String, _ rule: String) async throws -> TestNamespace {
    let namespace = try await TestNamespace(label)
    try await execute(
      "nft", "add table ip t; add chain ip t o { type filter hook output priority 0; };"
        + " add rule ip t o \(rule)", netns: namespace.name)
    return namespace
  }

  /// Columns of the table's counters.
  private func counters(_ namespace: TestNamespace) async throws -> (refused: Int, evicted: Int) {
    let found = try await namespace.inside {
      NamespaceCounters.conntrack(["drop", "early_drop"]).map { Int($0) }
    }
    return found.count == 2 ? (found[0], found[1]) : (-1, -1)
  }

  /// So many connections within three seconds; how many packets were refused,
  /// and how many connections came about.
  private func connect(_ count: Int, in namespace: TestNamespace) async throws -> (Int, Int) {
    let established = try await namespace.inside { () -> Int in
      guard
        let connections = try? Connections(
          count, port: 5000, pause: UInt32(3_000_000 / count))
      else { return -1 }
      // A SYN that was refused is sent again after a second.
      usleep(1_500_000)
      return connections.established
    }
    return (try await counters(namespace).refused, established)
  }

  func testConnectionsThatFindTheTableFull() async throws {
    let alone = try await Self.namespace("alone", "ct state new counter")
    let (without, few) = try await connect(1500, in: alone)
    await alone.delete()
    let daemon = try await Daemon("--allow", "conntrack")
    let namespace = try await Self.namespace("daemon", "ct state new counter")
    let (with, all) = try await connect(1500, in: namespace)
    let raised = try await values()
    try await daemon.stop()
    await namespace.delete()
    print(
      "conntrack: packets refused: \(without) without, \(with) with the daemon;"
        + " connections: \(few), \(all); \(raised)")
    XCTAssertLessThanOrEqual(few, 200)
    XCTAssertEqual(all, 1500)
    XCTAssertLessThanOrEqual(with * 10, without)
    XCTAssertGreaterThanOrEqual(raised[0], 1500)
    XCTAssertGreaterThan(raised[1], 512, "chains grow along")
    XCTAssertTrue(daemon.lines.contains { $0.contains("the limit is set for all namespaces") })
  }

  // MARK: Other causes

  /// The table is as good as empty.
  func testPacketsThatARuleDrops() async throws {
    let daemon = try await Daemon("--allow", "conntrack")
    let namespace = try await Self.namespace("rule", "ct state new udp dport 5001 drop")
    try await namespace.inside {
      guard let sender = try? DatagramSocket() else { return }
      for _ in 0..<10 {
        sender.send(2000, 5001)
        usleep(50_000)
      }
    }
    _ = try await daemon.line(containing: "packets are dropped by a rule")
    let after = try await values()
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(after, [200, 512])
  }

  /// Each is evicted by the next.
  func testAFloodThatNobodyAnswers() async throws {
    try await TestNamespace.initial.set(Self.names[0], "2000")
    let daemon = try await Daemon("--allow", "conntrack")
    let namespace = try await Self.namespace("flood", "ct state new counter")
    for arguments in [
      ["link", "add", "v0", "type", "veth", "peer", "name", "v1"],
      ["addr", "add", "10.9.0.1/24", "dev", "v0"], ["link", "set", "v0", "up"],
      ["link", "set", "v1", "up"],
      ["neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "v0"],
    ] {
      let command = try Command(["ip"] + arguments, netns: namespace.name)
      let status = try await command.wait()
      XCTAssertEqual(status, 0, command.output)
    }
    try await namespace.inside {
      guard let sender = try? DatagramSocket() else { return }
      for port in 1..<UInt16(30_000) { sender.send(1, to: "10.9.0.2", port) }
    }
    let evicted = try await counters(namespace)
    try await Task.sleep(for: .milliseconds(300))
    let after = try await values()
    try await daemon.stop()
    await namespace.delete()
    print("conntrack: a flood: \(evicted)")
    XCTAssertGreaterThan(evicted.evicted, 10_000)
    XCTAssertEqual(after, [2000, 512])
  }

  // MARK: Back to what it was

  /// With seconds in place of minutes.
  func testGoesBackWhenQuiet() async throws {
    let tuner = try await OneTuner(surveyed: 0) {
      Conntrack(
        learningRate: $0,
        times: Conntrack.Times(interval: .milliseconds(200), quiet: .milliseconds(1000)))
    }
    let namespace = try await Self.namespace("back", "ct state new counter")
    _ = try await connect(400, in: namespace)
    let raised = try await values()
    await namespace.delete()
    try await eventually("the usual limit") { try await self.values() == [200, 512] }
    await tuner.stop()
    XCTAssertGreaterThan(raised[0], 400)
  }
}
