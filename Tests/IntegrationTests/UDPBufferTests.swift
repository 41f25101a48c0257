import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// udp-buffer with real datagrams, each test in a namespace of its own.
final class UDPBufferTests: UDPBufferTestCase {
  // MARK: Bursts

  func testBurstsThatTheDefaultHasNoRoomFor() async throws {
    let namespace = try await TestNamespace("burst")
    // A guest is slower to look at the first one.
    let count = Guest.isHere ? 40 : 12
    let without = try await jobs(count, burst: 1500, in: namespace)
    let daemon = try await daemon()
    let with = try await jobs(count, burst: 1500, in: namespace)
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

  /// One raise, and word of who has to open its socket anew.
  func testASocketThatIsOlderThanTheRaise() async throws {
    let namespace = try await TestNamespace("older")
    let daemon = try await daemon()
    let dropped = try await namespace.inside { () -> [Int] in
      guard let reader = try? DatagramSocket(port: 5000), let sender = try? DatagramSocket()
      else { return [] }
      return (0..<8).map { _ in
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

  /// One does not read at all, the other without a break, but at half the rate
  /// at which datagrams come.
  func testProgramsThatSleepOrAreTooSlow() async throws {
    let namespace = try await TestNamespace("slow")
    let daemon = try await daemon()
    async let asleep = namespace.inside { () -> Int in
      guard let reader = try? DatagramSocket(port: 5000), let sender = try? DatagramSocket()
      else { return -1 }
      for _ in 0..<30 {
        sender.send(300, 5000)
        usleep(100_000)
      }
      return reader.drain(most: 1)
    }
    let slow = try await namespace.inside { () -> Int in
      guard let reader = try? DatagramSocket(port: 5001), let sender = try? DatagramSocket()
      else { return -1 }
      return (0..<300).map { _ in
        sender.send(40, 5001)
        usleep(10_000)
        return reader.drain(most: 20)
      }.reduce(0, +)
    }
    let one = try await asleep
    for port in 5000...5001 {
      _ = try await daemon.line(containing: "port \(port) (netns \(namespace.inode)) drops since")
    }
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(one, 1)
    XCTAssertEqual(slow, 6000)
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
}
