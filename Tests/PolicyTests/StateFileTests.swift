import Foundation
import Kernel
import XCTest

@testable import State

/// The state file by itself.
final class StateFileTests: XCTestCase {
  private var directory = ""
  private let own = NamespaceID(cookie: 1, inode: 4_026_531_840)
  private let other = NamespaceID(cookie: 7, inode: 4_026_532_281)

  override func setUp() {
    directory = NSTemporaryDirectory() + "bpftune-" + UUID().uuidString
  }

  override func tearDown() { try? FileManager.default.removeItem(atPath: directory) }

  private func machine(boot: String) -> Machine {
    Machine(boot: boot, id: "m", kernel: "6.18", processors: 2, memory: 1 << 20)
  }

  private func open(boot: String, _ notice: (String) -> Void = { _ in }) throws -> StateFile {
    try StateFile.open(directory: directory, machine: machine(boot: boot), notice: notice)
  }

  private func row(_ namespace: NamespaceID, _ tunable: String = "net.ipv4.tcp_wmem")
    -> StateFile.Row
  {
    var row = StateFile.Row(
      namespace: namespace, tunable: tunable, tuner: "tcp-buffer", original: "4096 16384 65536",
      written: "4096 16384 524288", previous: "4096 16384 65536", since: 1, changes: 1,
      scenario: "need to increase TCP send buffer", reason: "a reason", risk: "")
    row.own = namespace == own
    return row
  }

  private func record(_ id: Int64, _ namespace: NamespaceID, time: Int64 = 5) -> Record {
    var record = Record(
      .change, time: time, tuner: "tcp-buffer", tunable: "net.ipv4.tcp_wmem", namespace: namespace,
      namespaceName: "web", old: "1", new: "2", scenario: "s", reason: "r")
    record.id = id
    return record
  }

  func testHoldingsOutliveTheProcessAndNotTheBoot() throws {
    var file: StateFile? = try open(boot: "a")
    XCTAssertEqual(try file?.start().crashed, false)
    try file?.save(row(own), record(1, own))
    try file?.save(row(other), record(2, other))
    file = nil
    file = try open(boot: "a")
    XCTAssertEqual(try file?.start().crashed, true)
    XCTAssertEqual(try file?.holdings().count, 2)
    try file?.stop()
    file = nil
    file = try open(boot: "a")
    XCTAssertEqual(try file?.start().crashed, false)
    XCTAssertEqual(try file?.holdings().count, 2)
    XCTAssertEqual(try file?.takeLearned(by: ["tcp-buffer"]).count, 0)
    file = nil
    // Another boot: nothing is held, and what the own namespace held is learned.
    file = try open(boot: "b")
    XCTAssertEqual(try file?.start().crashed, false)
    XCTAssertEqual(try file?.holdings().count, 0)
    XCTAssertEqual(try file?.takeLearned(by: ["neigh"]).count, 0)
    let learned = try XCTUnwrap(try file?.takeLearned(by: ["tcp-buffer"]))
    XCTAssertEqual(learned.map(\.namespace), [own])
    XCTAssertEqual(learned.first?.written, "4096 16384 524288")
    XCTAssertEqual(try file?.takeLearned(by: ["tcp-buffer"]).count, 0, "once")
    XCTAssertEqual(try file?.history(HistoryFilter()).count, 2)
  }

  func testNothingIsLearnedOnAnotherMachine() throws {
    var file: StateFile? = try open(boot: "a")
    _ = try file?.start()
    try file?.save(row(own), record(1, own))
    file = nil
    var other = machine(boot: "b")
    other.memory *= 2
    let next = try StateFile.open(directory: directory, machine: other)
    _ = try next.start()
    XCTAssertEqual(try next.takeLearned(by: ["tcp-buffer"]).count, 0)
  }

  func testHistoryIsFiltered() throws {
    let file = try open(boot: "a")
    for id in 1...20 {
      try file.save(record(Int64(id), id % 2 == 0 ? own : other, time: Int64(id)), own: id % 2 == 0)
    }
    var filter = HistoryFilter()
    filter.limit = 3
    XCTAssertEqual(try file.history(filter).map(\.id), [20, 19, 18])
    filter.before = 18
    filter.namespace = .inode(other.inode)
    XCTAssertEqual(try file.history(filter).map(\.id), [17, 15, 13])
    filter.since = 17
    XCTAssertEqual(try file.history(filter).map(\.id), [17])
    filter.tunable = "net.ipv4.tcp_rmem"
    XCTAssertEqual(try file.history(filter), [])
    var changed = record(17, other, time: 17)
    changed.verdict = .kept
    changed.effect = "12 Mbit/s more"
    try file.save(changed, own: false)
    filter.tunable = nil
    XCTAssertEqual(try file.history(filter), [changed])
  }

  func testHistoryStaysSmallAndOthersDoNotPushOutTheOwn() throws {
    let file = try open(boot: "a")
    try file.save(record(1, own, time: 100), own: true)
    for id in 2...1200 { try file.save(record(Int64(id), other, time: 100), own: false) }
    var bounds = StateFile.Bounds()
    bounds.others = 100
    while try file.prune(bounds, now: 200) {}
    var filter = HistoryFilter()
    filter.limit = HistoryFilter.most
    XCTAssertEqual(try file.history(filter).count, 101)
    filter.namespace = .own
    XCTAssertEqual(try file.history(filter).count, 1)
    bounds.age = 50
    _ = try file.prune(bounds, now: 200)
    XCTAssertEqual(try file.history(HistoryFilter()).count, 0)
  }

  /// What a change costs on its way; printed, since it depends on the machine.
  func testWritesComeBeforeTheSysctlAndAreShort() throws {
    let file = try open(boot: "a")
    _ = try file.start()
    var times: [Duration] = []
    for id in 1...1000 {
      let start = ContinuousClock.now
      try file.save(row(own), record(Int64(id), own))
      times.append(start.duration(to: .now))
    }
    times.sort()
    print("storing a change: median \(times[500]), 99 of 100 below \(times[990])")
    XCTAssertEqual(try file.lastRecord(), 1000)
    XCTAssertEqual(try file.holdings().count, 1)
  }

  func testALaterVersionIsSetAside() throws {
    var file: StateFile? = try open(boot: "a")
    file = nil
    _ = file
    // The version stands in bytes 60 to 63 of the header.
    let url = URL(fileURLWithPath: directory + "/state.db")
    var bytes = try Data(contentsOf: url)
    bytes[63] = 9
    try bytes.write(to: url)
    var notices: [String] = []
    _ = try open(boot: "a") { notices.append($0) }
    XCTAssertEqual(notices.count, 1)
    XCTAssertTrue(
      notices.first?.contains("its version is 9, and this bpftune knows 1") ?? false, "\(notices)")
  }

  func testAnOlderFileIsUpgradedAndKeepsWhatIsInIt() throws {
    var file: StateFile? = try open(boot: "a")
    try file?.save(row(own), record(1, own))
    file = nil
    let database = try Database(path: directory + "/state.db")
    let later = StateFile.steps + ["ALTER TABLE meta ADD COLUMN note TEXT;", "CREATE TABLE x (y);"]
    try StateFile.upgrade(database, by: later)
    try StateFile.upgrade(database, by: later)
    XCTAssertEqual(try database.rows("PRAGMA user_version") { $0.integer(0) }, [3])
    XCTAssertEqual(try database.rows("SELECT count(*) FROM holding") { $0.integer(0) }, [1])
    _ = try database.rows("SELECT note FROM meta, x") { $0.text(0) }
    // A step that fails leaves nothing of itself.
    let broken = later + ["CREATE TABLE z (y); CREATE TABLE x (y);"]
    XCTAssertThrowsError(try StateFile.upgrade(database, by: broken))
    XCTAssertEqual(try database.rows("PRAGMA user_version") { $0.integer(0) }, [3])
  }

  /// When the power fails, the end of the log may not have come to the disk: the
  /// file is as it was a while before.
  func testLongALostEndOfTheLogIsNoDamage() throws {
    let file = try open(boot: "a")
    _ = try file.start()
    try file.synchronize()
    for id in 1...50 {
      try file.save(row(other, "net.ipv4.t\(id)"), record(Int64(id), other))
      if id == 25 { try file.synchronize() }
    }
    let (main, log) = (directory + "/state.db", directory + "/state.db-wal")
    let there = try Data(contentsOf: URL(fileURLWithPath: main))
    let whole = try Data(contentsOf: URL(fileURLWithPath: log))
    XCTAssertGreaterThan(whole.count, 50_000)
    let elsewhere = directory + "-after"
    defer { try? FileManager.default.removeItem(atPath: elsewhere) }
    var last = 0
    for length in (0..<60).map({ whole.count * $0 / 59 }) {
      try? FileManager.default.removeItem(atPath: elsewhere)
      try FileManager.default.createDirectory(
        atPath: elsewhere, withIntermediateDirectories: true)
      try there.write(to: URL(fileURLWithPath: elsewhere + "/state.db"))
      // What was not written reads as anything.
      let lost = (length..<whole.count).map { _ in UInt8.random(in: 0...255) }
      try (whole.prefix(length) + lost.prefix(Bool.random() ? 0 : .max)).write(
        to: URL(fileURLWithPath: elsewhere + "/state.db-wal"))
      let after = try StateFile.open(directory: elsewhere, machine: machine(boot: "a")) {
        XCTFail("\(length) of \(whole.count): \($0)")
      }
      let held = try after.holdings().count
      XCTAssertEqual(Int64(held), try after.lastRecord(), "a holding and its record are one")
      XCTAssertGreaterThanOrEqual(held, last)
      last = held
    }
    XCTAssertEqual(last, 50)
  }

  /// Whatever is in the file: it is read, or set aside, and used again.
  func testGarbageInTheFile() throws {
    var file: StateFile? = try open(boot: "a")
    _ = try file?.start()
    for id in 1...200 {
      try file?.save(row(other, "net.ipv4.t\(id)"), record(Int64(id), other))
    }
    try file?.stop()
    file = nil
    let url = URL(fileURLWithPath: directory + "/state.db")
    let good = try Data(contentsOf: url)
    var random = SystemRandomNumberGenerator()
    var setAside = 0
    let rounds = Int(ProcessInfo.processInfo.environment["BPFTUNE_TEST_FUZZ"] ?? "") ?? 100
    for round in 0..<rounds {
      var bad = good
      switch round % 4 {
      case 0: bad = good.prefix(Int.random(in: 0..<good.count))
      case 1:
        let start = Int.random(in: 0..<good.count)
        for index in start..<min(good.count, start + 64) { bad[index] = random.next() }
      case 2: for _ in 0..<20 { bad[Int.random(in: 0..<good.count)] = random.next() }
      default:
        for index in 0..<100 where Bool.random() { bad[index] = random.next() }
      }
      for suffix in ["-wal", "-shm"] {
        try? FileManager.default.removeItem(atPath: url.path + suffix)
      }
      try bad.write(to: url)
      if round % 5 == 0 { try bad.suffix(8192).write(to: URL(fileURLWithPath: url.path + "-wal")) }
      do {
        let file = try open(boot: "a") { _ in setAside += 1 }
        _ = try file.start()
        _ = try file.holdings()
        _ = try file.history(HistoryFilter())
        try file.save(row(own), record(1000, own))
      } catch let failure as StateFile.Failure {
        // Damage that shows later than when it was opened: nothing else.
        XCTAssertTrue(failure.isDamage, "round \(round): \(failure)")
      }
    }
    XCTAssertGreaterThan(setAside, rounds / 10)
  }
}
