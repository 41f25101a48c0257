import Foundation
import TestSupport
import XCTest

/// What takes long with tuners from outside.
final class ModuleLongTests: ModuleTestCase {
  /// Each strategy is tried for half a minute, and scored; the better one stays.
  func testStrategiesAreTriedAndScored() async throws {
    let (namespace, directory) = try await place("strategies")
    let daemon = try await Daemon("--libdir", directory.path)
    try await daemon.line(containing: "strategies is loaded")
    func join(until words: String) async throws {
      try await eventually(upTo: 60, words) {
        try await namespace.set(Self.groups, "5")
        _ = try await bpftune("enable", "strategies")
        _ = try await namespace.join(groups: 7, attempts: 2)
        try await Task.sleep(for: .seconds(1))
        return daemon.lines.contains { $0.contains(words) }
      }
    }
    try await join(until: "strategies: by one scores 1.0")
    try await join(until: "strategies: by three scores 4.0")
    let lines = daemon.lines
    try await daemon.stop()
    await namespace.delete()
    XCTAssertTrue(
      lines.contains { $0.contains("by one scores 1.0") && $0.contains("by three is tried") })
    XCTAssertTrue(
      lines.contains { $0.contains("by three scores 4.0") && $0.contains("by three is best") })
    XCTAssertTrue(lines.contains { $0.contains(" 5 -> 6 ") })
    XCTAssertTrue(lines.contains { $0.contains(" 5 -> 8 ") })
  }

  func testAScoreThatIsNoNumberIsNonsense() async throws {
    let (namespace, directory) = try await place("score")
    let daemon = try await Daemon("--libdir", directory.path)
    try await eventually(upTo: 60, "the module to be disabled") {
      _ = try await namespace.join(groups: 6, attempts: 1)
      try await Task.sleep(for: .seconds(1))
      return daemon.lines.contains {
        $0.contains("score is disabled: returns nonsense: a score of nan")
      }
    }
    try await daemon.stop()
    await namespace.delete()
  }

  func testNothingIsLeftOfAHundredLoads() async throws {
    let (namespace, directory) = try await place("igmp-groups")
    let daemon = try await Daemon("--libdir", directory.path)
    func cycle(_ count: Int) async throws {
      try directory.remove("igmp-groups")
      try await eventually("unload \(count)") {
        daemon.lines.filter { $0.contains("its tuner is unloaded") }.count == count
      }
      try directory.install("igmp-groups")
      try await eventually("load \(count)") {
        daemon.lines.filter { $0.contains("igmp-groups is loaded") }.count == count + 1
      }
    }
    try await cycle(1)
    let (descriptors, programs) = (daemon.descriptors, BPFPrograms.ids().count)
    let links = BPFPrograms.links().count
    let memory = daemon.anonymousMemory
    for count in 2...101 { try await cycle(count) }
    let joined = try await namespace.join(groups: 12)
    // The thread that brings the state to the disk has some for a moment.
    try await eventually("as many descriptors as before, \(descriptors)") {
      daemon.descriptors == descriptors
    }
    XCTAssertEqual(BPFPrograms.ids().count, programs)
    XCTAssertEqual(BPFPrograms.links().count, links)
    XCTAssertEqual(Self.hosts().count, 1)
    print("100 loads: \(memory) KiB of anonymous memory before, \(daemon.anonymousMemory) after")
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(joined, 12, daemon.command.output)
  }
}
