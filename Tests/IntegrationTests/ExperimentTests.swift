import Foundation
import State
import TestSupport
import XCTest

@testable import Tuners

/// Every change is an experiment: what it brought is measured, said and kept.
final class ExperimentTests: IntegrationTestCase {
  /// Those of one namespace: other traffic on the machine may have its own.
  private func records(_ daemon: Daemon, _ namespace: TestNamespace) throws -> [Record] {
    var filter = HistoryFilter()
    filter.namespace = .inode(UInt32(namespace.inode))
    return try StateFile.open(directory: daemon.stateDirectory).history(filter)
  }

  func testLongAChangeThatHelpsIsKeptAndSaysWhatItBrought() async throws {
    let path = try await StateTests.limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let server = try await Iperf.server(in: path.right)
    async let traffic = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 6)
    let line = try await daemon.line(
      containing: "(netns \(path.left.inode) \"\(path.left.name ?? "")\") kept: ", upTo: 15)
    _ = try? await traffic
    server.signal(SIGTERM)
    try await daemon.stop()
    XCTAssertTrue(line.contains("\(Self.wmem) 4096 16384 "), line)
    XCTAssertTrue(line.contains("Mbit/s -> "), line)
    let summary = daemon.lines.last { $0.contains("tcp-buffer: ") && $0.contains(" kept, ") }
    XCTAssertTrue(summary?.contains("the rate before (median of ") ?? false, "\(daemon.lines)")
    let record = try XCTUnwrap(try records(daemon, path.left).first { $0.verdict == .kept })
    XCTAssertEqual(record.kind, .change)
    XCTAssertTrue(line.contains(record.effect))
    await path.close()
  }

  /// The path is full already, and has a deep queue: a larger buffer only
  /// fills that.
  func testAChangeThatMakesItWorseIsTakenBackAndNotRepeated() async throws {
    let path = try await Path(
      delay: 10, options: ["--rate-mbit", "20", "--queue-bytes", "8000000"])
    try await path.setLargeBuffers()
    try await path.left.set("net.ipv4.tcp_congestion_control", "reno")
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let server = try await Iperf.server(in: path.right)
    let traffic = try Command(
      ["iperf3", "-c", Path.rightAddress.v4, "-t", "20"], netns: path.left.name)
    let line = try await daemon.line(containing: "taken back: ", upTo: 20)
    _ = try await daemon.line(containing: "a step made it worse", upTo: 20)
    let value = try await path.left.sysctl(Self.wmem)
    traffic.signal(SIGKILL)
    server.signal(SIGTERM)
    try await daemon.stop()
    let all = try records(daemon, path.left)
    await path.close()
    XCTAssertEqual(value, "4096 16384 65536")
    XCTAssertTrue(line.contains("round trip"), line)
    XCTAssertTrue(all.contains { $0.kind == .withdrawal })
    XCTAssertTrue(all.contains { $0.kind == .change && $0.verdict == .worse })
  }

  func testLongNamespacesThatAreHeldOutStayAsTheyAre() async throws {
    let path = try await StateTests.limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer", "--hold-out", "100%")
    let server = try await Iperf.server(in: path.right)
    async let traffic = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 6)
    _ = try await daemon.line(
      containing: "(netns \(path.left.inode) \"\(path.left.name ?? "")\") held out: ", upTo: 15)
    _ = try? await traffic
    server.signal(SIGTERM)
    let value = try await path.left.sysctl(Self.wmem)
    try await daemon.stop()
    let kinds = Set(try records(daemon, path.left).map(\.kind))
    await path.close()
    XCTAssertEqual(value, "4096 16384 65536")
    XCTAssertEqual(kinds, [.holdOut])
    XCTAssertTrue(daemon.lines.contains { $0.contains("times where held out (median of ") })
  }
}
