import Foundation
import Kernel
import State
import TestSupport
import XCTest

@testable import Tuners

/// What the daemon knows outlives it.
final class StateTests: IntegrationTestCase {
  private static let small = "4096 16384 65536"

  /// A path whose left side is held back by a small send buffer.
  static func limitedPath() async throws -> Path {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.left.set(wmem, small)
    return path
  }

  /// Traffic that makes the daemon raise the limit on the left.
  static func tune(_ path: Path, seconds: Double = 1) async throws {
    let server = try await Iperf.server(in: path.right)
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: seconds)
    server.signal(SIGTERM)
    try await server.wait()
  }

  private func temporaryDirectory() -> String {
    NSTemporaryDirectory() + "bpftune-" + UUID().uuidString
  }

  /// As `bpftune rollback` does it while no daemon runs.
  static func putBack(_ directory: String) async throws -> [Recovery.Line] {
    try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread {
        continuation.resume(
          with: Result { try Recovery.putBack(stateDirectory: directory) { print($0) } })
      }
    }
  }

  static func kill(_ daemon: Daemon) async throws {
    daemon.command.signal(SIGKILL)
    try await daemon.command.wait()
  }

  // MARK: After the daemon was killed

  func testTheNextDaemonGoesOnAndPutsBackTheOriginal() async throws {
    let path = try await Self.limitedPath()
    let first = try await Daemon("--allow", "tcp-buffer")
    try await Self.tune(path)
    try await Self.kill(first)
    let tuned = try await path.left.maximum(Self.wmem)
    XCTAssertGreaterThan(tuned, 65536)
    let second = try await Daemon(
      "--allow", "tcp-buffer", "--rollback", "--state-dir", first.stateDirectory)
    _ = try await second.line(containing: "ended without a word")
    let still = try await path.left.maximum(Self.wmem)
    XCTAssertEqual(still, tuned)
    // It is no administrator's value to the second one: it goes on.
    try await Self.tune(path)
    XCTAssertFalse(second.isDisabled(in: path.left))
    try await second.stop()
    let value = try await path.left.sysctl(Self.wmem)
    await path.close()
    XCTAssertEqual(value, Self.small)
  }

  func testRollBackWithoutADaemon() async throws {
    let path = try await Self.limitedPath()
    let daemon = try await Daemon("--allow", "tcp-buffer")
    try await Self.tune(path)
    try await Self.kill(daemon)
    let lines = try await Self.putBack(daemon.stateDirectory)
    let value = try await path.left.sysctl(Self.wmem)
    let again = try await Self.putBack(daemon.stateDirectory)
    let inode = UInt32(path.left.inode)
    await path.close()
    XCTAssertEqual(value, Self.small)
    let line = try XCTUnwrap(lines.first { $0.holding.tunable.name == Self.wmem })
    XCTAssertEqual(line.result, .putBack)
    XCTAssertEqual(line.holding.namespace.inode, inode)
    XCTAssertEqual(again.count, 0)
  }

  func testAnAdministratorsValueOutlivesACrash() async throws {
    let path = try await Self.limitedPath()
    let theirs = "4096 16384 98304"
    let daemon = try await Daemon("--allow", "tcp-buffer")
    try await Self.tune(path)
    try await Self.kill(daemon)
    // Written while no daemon ran.
    try await path.left.set(Self.wmem, theirs)
    let second = try await Daemon("--allow", "tcp-buffer", "--state-dir", daemon.stateDirectory)
    try await Self.tune(path)
    let afterTraffic = try await path.left.sysctl(Self.wmem)
    XCTAssertTrue(second.isDisabled(in: path.left))
    try await Self.kill(second)
    // And the third one knows what the second one saw.
    let third = try await Daemon("--allow", "tcp-buffer", "--state-dir", daemon.stateDirectory)
    try await Self.tune(path)
    let afterMore = try await path.left.sysctl(Self.wmem)
    try await third.stop()
    let lines = try await Self.putBack(daemon.stateDirectory)
    let atTheEnd = try await path.left.sysctl(Self.wmem)
    await path.close()
    XCTAssertEqual(afterTraffic, theirs)
    XCTAssertEqual(afterMore, theirs)
    XCTAssertEqual(atTheEnd, theirs)
    XCTAssertFalse(lines.contains { $0.holding.tunable.name == Self.wmem && $0.result == .putBack })
  }

  // MARK: Files that are not as they should be

  func testADamagedFileIsSetAside() async throws {
    let directory = temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory) }
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    let path = directory + "/state.db"
    try Data("this is no database, and it is long enough to be read".utf8).write(
      to: URL(fileURLWithPath: path))
    let daemon = try await Daemon("--allow", "tcp-buffer", "--state-dir", directory)
    let line = try await daemon.line(containing: "is damaged")
    try await daemon.stop()
    XCTAssertTrue(line.contains("set aside as \(path).damaged"), line)
    XCTAssertTrue(FileManager.default.fileExists(atPath: path + ".damaged"))
    let next = try await Daemon("--allow", "tcp-buffer", "--state-dir", directory)
    try await next.stop()
    XCTAssertFalse(next.lines.contains { $0.contains("damaged") })
  }

  func testAFullDisk() async throws {
    let directory = temporaryDirectory()
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    try await execute("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", directory)
    let path = try await Self.limitedPath()
    do {
      let daemon = try await Daemon("--allow", "tcp-buffer", "--rollback", "--state-dir", directory)
      // Fill what is left.
      _ = try? await execute("dd", "if=/dev/zero", "of=\(directory)/rest", "bs=1k")
      try await Self.tune(path)
      let warning = try await daemon.line(containing: "the state cannot be written")
      XCTAssertTrue(warning.contains("disk is full"), warning)
      let tuned = try await path.left.maximum(Self.wmem)
      XCTAssertGreaterThan(tuned, 65536)
      XCTAssertFalse(daemon.isDisabled(in: path.left))
      let status = try await daemon.stop()
      XCTAssertEqual(status, 0)
      let value = try await path.left.sysctl(Self.wmem)
      XCTAssertEqual(value, Self.small)
      // A daemon that finds the disk full from the start tunes as well.
      let second = try await Daemon("--allow", "tcp-buffer", "--rollback", "--state-dir", directory)
      try await Self.tune(path)
      let again = try await path.left.maximum(Self.wmem)
      XCTAssertGreaterThan(again, 65536)
      try await second.stop()
    } catch {
      _ = try? await execute("umount", "-l", directory)
      await path.close()
      throw error
    }
    try await execute("umount", "-l", directory)
    try? FileManager.default.removeItem(atPath: directory)
    await path.close()
  }
}
