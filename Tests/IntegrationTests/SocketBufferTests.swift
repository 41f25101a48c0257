import Foundation
import Kernel
import TestSupport
import XCTest

@testable import Tuners

/// socket-buffer with real sockets. The maxima count for the whole machine and
/// are put back.
final class SocketBufferTests: IntegrationTestCase {
  private static let wmemMax = "net.core.wmem_max"
  private static let rmemMax = "net.core.rmem_max"

  private func number(_ tunable: String) async throws -> Int {
    Int(try await TestNamespace.initial.sysctl(tunable)) ?? -1
  }

  /// Restores both maxima, whatever `body` does.
  private func restoring(_ body: () async throws -> Void) async throws {
    let saved = try await SavedSysctls(Self.wmemMax, Self.rmemMax)
    do {
      try await body()
    } catch {
      await saved.restore()
      throw error
    }
    await saved.restore()
  }

  func testClampedRequestsRaiseTheMaxima() async throws {
    try await restoring {
      let path = try await Path(delay: 1)
      try await TestNamespace.initial.set(Self.wmemMax, "262144")
      try await TestNamespace.initial.set(Self.rmemMax, "262144")
      let daemon = try await Daemon("--allow", "socket-buffer", "--rollback")
      let service = try await TCPLoad.responder(
        in: path.right, port: 8201, bytes: 1000, sendBuffer: 3 << 20)
      try await TCPLoad.request(
        from: path.left, to: Path.rightAddress.v4, port: 8201, count: 1, receiveBuffer: 2 << 20)
      try await eventually("the maxima") {
        let send = try await number(Self.wmemMax)
        let receive = try await number(Self.rmemMax)
        return send == 3 << 20 && receive == 2 << 20
      }
      // What no memory bears is not followed.
      try await TCPLoad.request(
        from: path.left, to: Path.rightAddress.v4, port: 8201, count: 1,
        receiveBuffer: Int(Int32.max))
      _ = try await daemon.line(containing: "since the memory bears no more")
      let receive = try await number(Self.rmemMax)
      let change = daemon.changes(of: Self.wmemMax).first ?? ""
      service.signal(SIGTERM)
      try await daemon.stop()
      let rolledBack = try await number(Self.wmemMax)
      await path.close()
      XCTAssertEqual(receive, 2 << 20)
      XCTAssertTrue(
        change.contains("pid \(service.pid) (tcp-load) asked for 3 MiB by SO_SNDBUF for port 8201"),
        change)
      XCTAssertEqual(rolledBack, 262_144)
    }
  }

  /// 32 KiB are nothing on a path of 40 ms: the service is named, and with the
  /// option its buffer is left to the kernel.
  func testLockedBuffersAreNamedAndOverridden() async throws {
    let path = try await Path(delay: 20)
    try await path.setLargeBuffers()
    // Others leave it to chance whether the buffer or their window is the limit.
    try await path.right.set("net.ipv4.tcp_congestion_control", "bbr")
    var daemon = try await Daemon("--allow", "socket-buffer")
    var service = try await TCPLoad.responder(
      in: path.right, port: 8202, bytes: 1_200_000, sendBuffer: 16384)
    try await TCPLoad.request(
      from: path.left, to: Path.rightAddress.v4, port: 8202, count: 1)
    let send = try await daemon.line(containing: "port 8202: a send buffer locked at 32 KiB")
    service.signal(SIGTERM)
    try await service.wait()
    // The receiving side, with a sender that is no limit.
    service = try await TCPLoad.responder(in: path.right, port: 8203, bytes: 1_200_000)
    try await TCPLoad.request(
      from: path.left, to: Path.rightAddress.v4, port: 8203, count: 1, receiveBuffer: 32768)
    let receive = try await daemon.line(containing: "port 8203: a receive buffer locked at 64 KiB")
    service.signal(SIGTERM)
    try await daemon.stop()
    let summary = daemon.lines.filter { $0.contains("sizes its buffers wrongly") }

    daemon = try await Daemon(
      "--allow", "socket-buffer", "--override-socket-buffers", "8202,8299")
    service = try await TCPLoad.responder(
      in: path.right, port: 8202, bytes: 1_200_000, sendBuffer: 16384)
    try await TCPLoad.request(from: path.left, to: Path.rightAddress.v4, port: 8202, count: 1)
    try await service.line(containing: "served 1 ")
    try await daemon.stop()
    service.signal(SIGTERM)
    await path.close()

    XCTAssertTrue(send.contains("SO_SNDBUF"), send)
    XCTAssertTrue(receive.contains("was full in every round trip"), receive)
    XCTAssertEqual(summary.count, 2, daemon.lines.joined(separator: "\n"))
    XCTAssertTrue(summary.first?.contains("port 8202 ") ?? false)
    // The kernel grew the send buffer: it was not locked.
    let grown = Int(service.lines.last?.split(separator: " ").last ?? "") ?? -1
    XCTAssertGreaterThan(grown, 0, service.output)
    XCTAssertFalse(daemon.lines.contains { $0.contains("locked at") })
  }

  /// Neither in a dry run nor where the namespace is held out.
  func testBuffersStayLockedWhereNothingMayBeDone() async throws {
    let path = try await Path(delay: 20)
    try await path.setLargeBuffers()
    try await path.right.set("net.ipv4.tcp_congestion_control", "bbr")
    for option in [["--dry-run"], ["--hold-out", "100%"]] {
      let daemon = try await Daemon(
        options: ["--allow", "socket-buffer", "--override-socket-buffers", "8205"] + option)
      let service = try await TCPLoad.responder(
        in: path.right, port: 8205, bytes: 1_200_000, sendBuffer: 16384)
      try await TCPLoad.request(from: path.left, to: Path.rightAddress.v4, port: 8205, count: 1)
      _ = try await daemon.line(containing: "port 8205: a send buffer locked at 32 KiB")
      service.signal(SIGTERM)
      try await service.wait()
      try await daemon.stop()
    }
    await path.close()
  }

  /// What nobody asks for any more is taken back.
  func testMaximumComesDownAgain() async throws {
    try await restoring {
      let namespace = try await TestNamespace("asks")
      try await TestNamespace.initial.set(Self.wmemMax, "262144")
      let tuner = try await OneTuner<SocketBuffer> {
        SocketBuffer(learningRate: $0, check: .milliseconds(200))
      }
      let service = try await TCPLoad.responder(
        in: namespace, port: 8204, bytes: 1000, sendBuffer: 1 << 20)
      try await eventually("the raise and its end") {
        let lines = tuner.lines.all.filter { $0.hasPrefix("\(Self.wmemMax) ") }
        return lines.contains { $0.contains(" 262144 -> 1048576 ") }
          && lines.contains { $0.contains(" 1048576 -> 262144 ") }
      }
      let value = try await number(Self.wmemMax)
      await tuner.stop()
      service.signal(SIGTERM)
      await namespace.delete()
      XCTAssertEqual(value, 262_144)
    }
  }
}
