import Foundation
import TestSupport
import XCTest

/// tcp-buffer on a link of 20 Mbit/s with a queue of 2 MB, which loss alone does
/// not keep short.
final class TCPQueueTests: IntegrationTestCase {
  func testLongTheQueueGoesAndTheThroughputStays() async throws {
    let path = try await SlowLink.path()
    let inode = path.left.inode
    let server = try await Iperf.server(in: path.right)
    let without = try await SlowLink.run(path, 4)
    let daemon = try await Daemon("--allow", "tcp-buffer")
    // A running connection keeps the buffer that it has grown.
    _ = try await SlowLink.run(path, 5)
    let wmem = try await path.left.maximum(Self.wmem)
    let rmem = try await path.right.maximum(Self.rmem)
    let with = try await SlowLink.run(path, 4)
    let afterwards = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertLessThan(with.meanRTT, without.meanRTT / 3)
    XCTAssertGreaterThan(with.rate, without.rate * 0.8)
    // 20 Mbit/s carry 50,000 bytes in 20 ms.
    for maximum in [wmem, rmem, afterwards] {
      XCTAssertGreaterThan(maximum, SlowLink.carried)
      XCTAssertLessThan(maximum, 1 << 20)
    }
    let change = daemon.changes(of: Self.wmem).first { $0.contains("\(inode)") } ?? ""
    XCTAssertTrue(change.contains("only stands in a queue"), change)
  }

  func testLongAPathThatHasNoQueueKeepsItsBuffers() async throws {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon("--allow", "tcp-buffer")
    // Not as fast as it can, or the processors are the bottleneck.
    _ = try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: 4, options: ["-b", "50M"])
    let wmem = try await path.left.maximum(Self.wmem)
    let rmem = try await path.right.maximum(Self.rmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(wmem, 67_108_864)
    XCTAssertEqual(rmem, 67_108_864)
  }
}

/// Ten minutes of load that changes its nature. `BPFTUNE_TEST_ALTERNATION` is
/// another number of seconds.
final class TCPQueueLongTests: IntegrationTestCase {
  func testAlternatingLoadMakesTheMaximumFlapNotOften() async throws {
    let text = ProcessInfo.processInfo.environment["BPFTUNE_TEST_ALTERNATION"] ?? ""
    let seconds = Double(text) ?? 600
    let path = try await SlowLink.path()
    let far = try await Iperf.server(in: path.right)
    let near = try await Iperf.server(in: path.left, port: 5202)
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let end = ContinuousClock.now + .seconds(seconds)
    var rounds = 0
    while ContinuousClock.now < end {
      // Where buffers make a queue, and where they are all that counts.
      _ = try await SlowLink.run(path, 12)
      _ = try await Iperf.run(from: path.left, to: "127.0.0.1", seconds: 3, port: 5202)
      for _ in 0..<3 { _ = try await SlowLink.run(path, 1) }
      try await Task.sleep(for: .seconds(2))
      rounds += 1
    }
    let isDisabled = daemon.isDisabled(in: path.left) || daemon.isDisabled(in: path.right)
    let (left, right) = (path.left.inode, path.right.inode)
    try await daemon.stop()
    far.signal(SIGTERM)
    near.signal(SIGTERM)
    await path.close()
    XCTAssertFalse(isDisabled, "something else has set buffers here")
    for (inode, tunable) in [(left, Self.wmem), (left, Self.rmem), (right, Self.rmem)] {
      let lines = daemon.changes(of: tunable).filter { $0.contains("netns \(inode)") }
      let reversals = Self.reversals(lines)
      print("\(tunable): \(lines.count) changes, \(reversals) reversals in \(rounds) rounds")
      // The wait before it comes down again doubles: 30 s, a minute, two, four.
      XCTAssertLessThanOrEqual(reversals, 10, lines.joined(separator: "\n"))
    }
  }

  /// How often a change went the other way than the one before it.
  private static func reversals(_ lines: [String]) -> Int {
    let goesUp = lines.compactMap { line -> Bool? in
      let numbers = line.split(separator: " (")[0].split(separator: " ").compactMap { Int($0) }
      return numbers.count < 6 || numbers[2] == numbers[5] ? nil : numbers[5] > numbers[2]
    }
    return zip(goesUp, goesUp.dropFirst()).filter { $0 != $1 }.count
  }
}

/// 20 Mbit/s with a round trip of 20 ms, and room for 2 MB in front of it.
enum SlowLink {
  /// Bytes that it carries in a round trip.
  static let carried = 50_000

  static func path() async throws -> Path {
    let path = try await Path(
      delay: 10, options: ["--rate-mbit", "20", "--queue-bytes", "2000000"])
    for end in [path.left, path.right] {
      try await end.set("net.ipv4.tcp_wmem", "4096 16384 4194304")
      try await end.set("net.ipv4.tcp_rmem", "4096 131072 33554432")
      // Each connection is to find out for itself.
      try await end.set("net.ipv4.tcp_no_metrics_save", "1")
    }
    return path
  }

  /// With a congestion control that fills every queue.
  static func run(_ path: Path, _ seconds: Double) async throws -> Iperf.Result {
    try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: seconds, options: ["-C", "reno"])
  }
}
