import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// conntrack with real connections, each test in a namespace of its own.
final class ConntrackTests: ConntrackTestCase {
  func testConnectionsThatFindTheTableFull() async throws {
    let alone = try await Self.namespace("alone", "ct state new counter")
    let (without, few) = try await connect(1000, in: alone)
    await alone.delete()
    let daemon = try await Daemon("--allow", "conntrack")
    let namespace = try await Self.namespace("daemon", "ct state new counter")
    let (with, all) = try await connect(1000, in: namespace)
    let raised = try await values()
    try await daemon.stop()
    await namespace.delete()
    print(
      "conntrack: packets refused: \(without) without, \(with) with the daemon;"
        + " connections: \(few), \(all); \(raised)")
    if all < 1000 { print(daemon.lines.suffix(60).joined(separator: "\n")) }
    XCTAssertLessThanOrEqual(few, 200)
    XCTAssertEqual(all, 1000)
    XCTAssertLessThanOrEqual(with * 10, without)
    XCTAssertGreaterThanOrEqual(raised[0], 1000)
    XCTAssertGreaterThan(raised[1], 512, "chains grow along")
    XCTAssertTrue(daemon.lines.contains { $0.contains("the limit is set for all namespaces") })
  }

  // MARK: Answered ones that make room for others

  /// A firewall lets answers in that it knows the question of.
  func testAnswersAreLostSinceTheirQuestionsWereForgotten() async throws {
    let rule = "udp sport 5300 ct state new drop"
    let alone = try await Self.namespace("alone", rule)
    let without = try await ask(600, in: alone)
    let before = try await counters(alone)
    await alone.delete()
    let daemon = try await Daemon("--allow", "conntrack")
    let namespace = try await Self.namespace("daemon", rule)
    let with = try await ask(600, in: namespace)
    let raised = try await values()
    try await daemon.stop()
    await namespace.delete()
    print(
      "conntrack: answers of 600: \(without) without, \(with) with the daemon; \(before); \(raised)"
    )
    XCTAssertLessThan(without, 570)
    XCTAssertLessThan(before.refused * 20, before.evicted, "there was room for nearly all")
    XCTAssertLessThan((600 - with) * 3, 600 - without)
    XCTAssertGreaterThan(raised[0], 200)
    XCTAssertTrue(daemon.lines.contains { $0.contains("evicted for others") })
  }

  /// No packet is dropped for it: it shows in the counters alone.
  func testAnsweredConnectionsThatMakeRoomAreCounted() async throws {
    let tuner = try await OneTuner<Conntrack>(polling: .milliseconds(200)) {
      Conntrack(learningRate: $0)
    }
    let namespace = try await Self.namespace("count", "ct state new counter")
    // It has to be found full twice.
    try await eventually(upTo: 30, "a larger table: \(tuner.lines.all.suffix(20))") {
      _ = try await self.ask(600, in: namespace)
      return try await self.values()[0] > 200
    }
    let raised = try await values()
    await tuner.stop()
    await namespace.delete()
    XCTAssertGreaterThan(raised[0], 200, "\(tuner.lines.all.suffix(20))")
    XCTAssertGreaterThan(raised[1], 512, "chains grow along")
  }

  /// What was raised for one namespace fills in another.
  func testLongConnectionsThatMakeRoomElsewhereAreCountedToo() async throws {
    let tuner = try await OneTuner<Conntrack>(polling: .milliseconds(200)) {
      Conntrack(learningRate: $0)
    }
    let first = try await Self.namespace("first", "ct state new counter")
    try await eventually(upTo: 30, "a larger table: \(tuner.lines.all.suffix(20))") {
      _ = try await self.ask(600, in: first)
      return try await self.values()[0] > 200
    }
    let raised = try await values()[0]
    let second = try await Self.namespace("second", "ct state new counter")
    try await eventually(upTo: 60, "a still larger table: \(tuner.lines.all.suffix(20))") {
      _ = try await self.ask(2 * raised, in: second)
      return try await self.values()[0] > raised
    }
    await tuner.stop()
    await first.delete()
    await second.delete()
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
    let tuner = try await OneTuner<Conntrack>(polling: .milliseconds(100)) {
      Conntrack(learningRate: $0)
    }
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
      for _ in 0..<4 {
        for port in 1..<UInt16(30_000) { sender.send(1, to: "10.9.0.2", port) }
        usleep(200_000)
      }
    }
    let evicted = try await counters(namespace)
    try await eventually("a judgement: \(tuner.lines.all.suffix(20))") {
      tuner.lines.all.contains { $0.contains("a flood looks like this") }
    }
    let after = try await values()
    await tuner.stop()
    await namespace.delete()
    print("conntrack: a flood: \(evicted)")
    XCTAssertGreaterThan(evicted.evicted, 10_000)
    XCTAssertEqual(after, [2000, 512])
  }
}
