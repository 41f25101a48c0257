import Kernel
import State

/// A change whose effect is being waited for.
struct Experiment {
  let tunable: Tunable
  let tuner: String
  /// The record that gets the verdict: of the last step.
  var record: Record
  let measure: Measure
  let before: Measure.Sample
  /// What a step that made it worse is taken back to.
  let old: SysctlValue
  /// The namespace is left untouched: only looked at.
  let isHeldOut: Bool
  let began: ContinuousClock.Instant
  var timer: Task<Void, Never>
  var number: Int

  /// For how long the effect is waited for, from the last step on.
  static let window = Duration.seconds(3)
  /// Steps after that open another one.
  static let longest = Duration.seconds(30)
}

/// A step that is not tried again for a while.
struct Setback {
  let from: SysctlValue
  var until: ContinuousClock.Instant
  var pause: Duration
  let effect: String

  static let pauses = (first: Duration.seconds(600), most: Duration.seconds(7200))
}

extension NetworkNamespace {
  /// Opens an experiment for an adjustment that was made, or that was not made
  /// since the namespace is held out.
  func observe(_ adjustment: Adjustment, of tuner: String, _ outcome: Outcome) async {
    guard let measure = adjustment.measure else { return }
    let tunable = adjustment.tunable
    if case .applied = outcome, var known = experiments[tunable], let record = written,
      known.began + Experiment.longest > .now
    {
      known.timer.cancel()
      known.record = record
      known.number += 1
      known.timer = conclude(tunable, known.number)
      experiments[tunable] = known
      return
    }
    guard experiments[tunable] == nil else { return }
    let record: Record
    let old: SysctlValue
    switch outcome {
    case .applied(let before, _, _):
      guard let written else { return }
      (record, old) = (written, before)
    case .refused(.heldOut(let current)):
      guard folder.admit("held out \(tunable.name)", most: 1) != nil else { return }
      _ = await title()
      record = await around.journal.note(adjustment, outcome, in: id, name: name, tuner: tuner)
      old = current
    default: return
    }
    guard let before = await sample(measure) else { return }
    let isHeldOut = if case .refused = outcome { true } else { false }
    experiments[tunable] = Experiment(
      tunable: tunable, tuner: tuner, record: record, measure: measure, before: before, old: old,
      isHeldOut: isHeldOut, began: .now, timer: conclude(tunable, 0), number: 0)
  }

  private func conclude(_ tunable: Tunable, _ number: Int) -> Task<Void, Never> {
    Task(executorPreference: around.loop) { [around] in
      await around.loop.sleep(for: Experiment.window)
      if !Task.isCancelled { self.put(.conclude(tunable, number)) }
    }
  }

  private func sample(_ measure: Measure) async -> Measure.Sample? {
    do {
      return try await around.directory.inside(id) { () throws(SystemCallFailure) in
        try measure.sample()
      }.get()
    } catch {
      around.log.debug("\(id): nothing can be measured: \(error)")
      return nil
    }
  }

  /// Its time is over: what did the change bring?
  func conclude(_ tunable: Tunable, number: Int) async {
    guard let experiment = experiments[tunable], experiment.number == number else { return }
    experiments[tunable] = nil
    // Whoever set it by hand in between has ended the experiment.
    if !experiment.isHeldOut, await around.journal.holding(tunable, in: id) == nil { return }
    guard disabled[experiment.tuner] == nil, let after = await sample(experiment.measure) else {
      return
    }
    let spent = experiment.began.duration(to: .now)
    let finding = Finding(
      experiment.measure, experiment.before, after,
      seconds: Double(spent.nanoseconds) / 1_000_000_000)
    let record = await around.journal.conclude(
      experiment.record, finding, heldOut: experiment.isHeldOut)
    let here = await title()
    switch finding.verdict {
    case _ where experiment.isHeldOut:
      around.log.debug("\(tunable.name) (\(here)) held out: \(finding.effect)")
    case .worse: await takeBack(experiment, finding)
    case .kept:
      guard let repeats = folder.admit("kept \(tunable.name)", most: 3) else { return }
      around.log.info(
        "\(tunable.name) \(record.new) (\(here)) kept: \(finding.effect)\(repeats)",
        metadata: record.fields)
    case .unclear:
      around.log.debug("\(tunable.name) (\(here)) kept: \(finding.effect)")
    }
  }

  private func takeBack(_ experiment: Experiment, _ finding: Finding) async {
    let tunable = experiment.tunable
    guard let current = await around.journal.holding(tunable, in: id)?.written else { return }
    let adjustment = Adjustment(
      tunable, from: .whole(current), to: .whole(experiment.old), scenario: "a step made it worse",
      reason: "taken back: \(finding.effect)")
    let pause = min((setbacks[tunable]?.pause ?? Setback.pauses.first / 2) * 2, Setback.pauses.most)
    setbacks[tunable] = Setback(
      from: experiment.old, until: .now + pause, pause: pause, effect: finding.effect)
    let now = KernelEvent.now()
    let outcome = await apply(adjustment, of: experiment.tuner, as: .withdrawal)
    await record(adjustment, of: experiment.tuner, outcome, seenAt: now)
  }

  /// Why a step is not taken: the same one made it worse.
  func setback(_ tunable: Tunable, _ new: SysctlValue) -> Refusal? {
    guard let setback = setbacks[tunable], setback.until > .now else { return nil }
    guard (new.maximum ?? 0) > (setback.from.maximum ?? 0) else { return nil }
    let left = ContinuousClock.now.duration(to: setback.until).components.seconds
    return .setback("a step made it worse (\(setback.effect)); not again for \(left) s")
  }
}
