import Foundation
import TestSupport
import XCTest

/// Entries with fields, as a real journald stores them.
final class JournalEntryTests: IntegrationTestCase {
  private static let journald = "/lib/systemd/systemd-journald"

  /// A journald of its own in a mount namespace of its own, and the daemon.
  private static let script = """
    set -e
    mount -t tmpfs tmpfs /run/systemd
    mkdir -p /run/systemd/journal /run/log
    mount -t tmpfs tmpfs /run/log
    mkdir -p /run/log/journal
    \(journald) & journald=$!
    while [ ! -S /run/systemd/journal/socket ]; do sleep 0.1; done
    "$BPFTUNE" --log journal --allow tcp-buffer --state-dir "$STATE" & daemon=$!
    find() { journalctl -q -D /run/log/journal -o json "$@"; }
    while ! find SYSLOG_IDENTIFIER=bpftune | grep -q 'tuning with'; do sleep 0.1; done
    echo ready
    while ! find BPFTUNE_TUNABLE=net.ipv4.tcp_wmem BPFTUNE_EVENT=change | grep -q BPFTUNE_NEW; do
      sleep 0.1
    done
    find BPFTUNE_TUNABLE=net.ipv4.tcp_wmem BPFTUNE_EVENT=change
    kill $daemon; wait $daemon || true; kill $journald; wait $journald || true
    echo done
    """

  func testChangesCanBeFoundByTheirFields() async throws {
    guard FileManager.default.isExecutableFile(atPath: Self.journald) else {
      throw XCTSkip("there is no \(Self.journald) on this machine")
    }
    try FileManager.default.createDirectory(
      atPath: "/run/systemd", withIntermediateDirectories: true)
    let path = try await StateTests.limitedPath()
    let state = NSTemporaryDirectory() + "bpftune-" + UUID().uuidString
    let command = try Command(
      ["unshare", "-m", "--propagation", "private", "sh", "-c", Self.script],
      environment: ["BPFTUNE": Products.path("bpftune"), "STATE": state])
    try await command.line(containing: "ready", upTo: 30)
    try await StateTests.tune(path)
    try await command.line(containing: "done", upTo: 30)
    try? FileManager.default.removeItem(atPath: state)
    let inode = "\(path.left.inode)"
    await path.close()
    let entries = command.lines.compactMap {
      try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
    }
    let entry = try XCTUnwrap(entries.first { $0["BPFTUNE_NETNS"] as? String == inode })
    XCTAssertEqual(entry["MESSAGE_ID"] as? String, "ee7978bef3eb4e5cafdb1c3307effa6f")
    XCTAssertEqual(entry["SYSLOG_IDENTIFIER"] as? String, "bpftune")
    XCTAssertEqual(entry["PRIORITY"] as? String, "5")
    XCTAssertEqual(entry["BPFTUNE_TUNER"] as? String, "tcp-buffer")
    XCTAssertEqual(entry["BPFTUNE_OLD"] as? String, "4096 16384 65536")
    XCTAssertEqual(entry["BPFTUNE_SCENARIO"] as? String, "need to increase TCP send buffer")
    let message = try XCTUnwrap(entry["MESSAGE"] as? String)
    XCTAssertTrue(message.contains("net.ipv4.tcp_wmem 4096 16384 65536 -> "), message)
  }
}
