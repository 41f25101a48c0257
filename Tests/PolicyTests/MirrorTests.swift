import Kernel
import XCTest

@testable import Tuners

/// Numbers that stand both in `bpf/` and in Swift are the same.
final class MirrorTests: XCTestCase {
  func testTunersMirrorTheirEnums() throws {
    for tuner in tuners {
      for (enumeration, expected) in tuner.mirrors {
        let objects = Set(tuner.signals.flatMap(\.hooks).map(\.object)).filter { !$0.isEmpty }
        let found = try objects.lazy
          .map { try BPFObject(named: $0).enumerators(of: enumeration) }
          .first { !$0.isEmpty }
        let actual = Dictionary(uniqueKeysWithValues: try XCTUnwrap(found, enumeration))
        XCTAssertEqual(actual, expected, enumeration)
      }
    }
  }

  func testNamespaceWatchMirrorsItsEnum() throws {
    for object in ["netns_watch", "netns_watch_fentry", "netns_watch_kprobe"] {
      let actual = try BPFObject(named: object).enumerators(of: "netns_watch_scenario")
      XCTAssertEqual(
        actual.map(\.value), NamespaceWatch.Scenario.allCases.map { Int64($0.rawValue) })
    }
  }

  func testSysctlWatchMirrorsItsEnum() throws {
    let actual = try BPFObject(named: "sysctl_watch").enumerators(of: "sysctl_watch_scenario")
    XCTAssertEqual(actual.map(\.value), SysctlWatch.Scenario.allCases.map { Int64($0.rawValue) })
  }

  func testNamesAreUnique() {
    XCTAssertEqual(Set(tuners.map { $0.name }).count, tuners.count)
    for tuner in tuners {
      let names = tuner.tunables.map(\.name)
      XCTAssertEqual(Set(names).count, names.count, tuner.name)
      for name in names { XCTAssertLessThan(name.utf8.count, 64, "\(name): too long for an event") }
    }
  }

  func testEveryHookNamesAProgramThatExists() throws {
    let signals = tuners.flatMap { $0.signals + [$0.adoption, $0.request].compactMap { $0 } }
    for hook in (signals + NamespaceWatch.signals + [SysctlWatch.signal]).flatMap(\.hooks)
    where !hook.object.isEmpty {
      XCTAssertTrue(
        try BPFObject(named: hook.object).programs.contains(hook.program), hook.program)
    }
  }
}
