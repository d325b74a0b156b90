/** What plots and dialogs say in the language of the page; a sentence without a translation stays English. */

export const TRANSLATED = {
  ko: {
    "cannot be drawn": "그릴 수 없습니다",
    "acted at {acted} of {steps} steps, cost × {cost}": "{steps}스텝 중 {acted}스텝에서 적용, 비용 × {cost}",
    "In the last run; cost: evaluations of all networks, as a multiple of an unguided run's.":
      "마지막 실행 기준. 비용: 모든 네트워크의 평가 횟수로, 가이던스 없는 실행의 몇 배인지입니다.",
    "Stages and sigmas as for Stable Diffusion, until a run tells this model's. Click for the next axis.":
      "한 번 실행해 이 모델의 값을 알기 전까지는 단계와 sigma가 Stable Diffusion 기준입니다. 클릭하면 다음 축으로 바뀝니다.",
    "Noisy to clean. Click for the next axis: percent, sigma, log SNR.":
      "노이즈가 많은 쪽에서 깨끗한 쪽으로. 클릭하면 다음 축으로 바뀝니다: percent, sigma, log SNR.",
    "coarse": "윤곽",
    "content": "내용",
    "clean-up": "마무리",
    "strength": "강도",
    "weight": "가중치",
    "scale": "스케일",
    "autoguidance": "오토가이던스",
    "share of the sampler's cfg": "샘플러 cfg의 비율",
    "the sampler's cfg": "샘플러의 cfg",
    "last run": "마지막 실행",
    "schedule of another node: drawn after a run": "스케줄이 다른 노드에서 옵니다. 실행하면 그려집니다",
    "{input} comes from another node: drawn after a run": "{input}: 값이 다른 노드에서 옵니다. 실행하면 그려집니다",
    "in percent, start and end go from 0 to 1": "percent에서 시작과 끝은 0에서 1까지입니다",
    "start {start} lies after end {end}": "시작 {start}: 끝 {end}보다 뒤에 있습니다",
    "in sigma, start {start} must be larger than end {end}": "sigma에서는 시작 {start}: 끝 {end}보다 커야 합니다",
    'points: "{part}" is not position: strength': '점: "{part}"의 형식이 위치: 강도가 아닙니다',
    "points: strengths go from -{most} to {most}": "점: 강도는 -{most}에서 {most}까지입니다",
    "points: two or more are needed": "점: 두 개 이상 필요합니다",
    "points: in percent, positions rise from 0 to 1": "점: percent에서 위치는 0에서 1로 커집니다",
    "points: in sigma, positions fall": "점: sigma에서 위치는 점점 작아집니다",
    "points: in {unit}, positions go from 0 to {highest}": "점: {unit}에서 위치는 0에서 {highest}까지입니다",
    "connect two or more guides": "가이드를 두 개 이상 연결하세요",
    "the guide's own schedule: drawn after a run": "가이드 자체의 스케줄입니다. 실행하면 그려집니다",
    "{guides} guides need {edges} edges, not {found}": "가이드 {guides}개에는 경계가 {found}개가 아니라 {edges}개 필요합니다",
    "edges: numbers above 0 with commas": "경계: 0보다 큰 수를 쉼표로 구분하세요",
    "edges: timesteps are whole numbers from 1 to {last}": "경계: 타임스텝은 1에서 {last}까지의 정수입니다",
    "edges: from clean to noisy, each once": "경계: 깨끗한 쪽에서 노이즈가 많은 쪽으로, 하나씩만 적으세요",
    "look closer": "자세히 보기",
    "Run the workflow first: then two cells can be seen over each other, and the better one kept.":
      "먼저 워크플로를 실행하세요. 그러면 두 셀을 겹쳐 보고 더 나은 쪽을 남길 수 있습니다.",
    "Click a cell to see it as A; with Shift, as B. The pointer on the picture divides the two.":
      "셀을 클릭하면 A로, Shift와 함께 클릭하면 B로 보입니다. 이미지 위의 포인터가 둘을 나눕니다.",
    "Keep {side}: set the nodes to it": "{side} 남기기: 노드를 이 설정으로",
    "Close": "닫기",
    "The nodes are set: {words}.": "노드에 설정했습니다: {words}.",
    "{words}: no widget alone sets it. Set it yourself.": "{words}: 위젯 하나로는 설정되지 않습니다. 직접 설정하세요.",
    "{words}: its node has gone or changed since the run. Run again.":
      "{words}: 실행 뒤에 노드가 없어졌거나 바뀌었습니다. 다시 실행하세요.",
    "{words}: {node} has no {name} of its own.": "{words}: {node}에는 {name} 값이 따로 없습니다.",
    "{words}: {name} of {node} comes by a wire.": "{words}: {node}의 {name} 값은 연결선으로 옵니다.",
  },
  zh: {
    "cannot be drawn": "无法绘制",
    "acted at {acted} of {steps} steps, cost × {cost}": "{steps} 步中 {acted} 步起作用，开销 × {cost}",
    "In the last run; cost: evaluations of all networks, as a multiple of an unguided run's.":
      "上次运行的情况。开销：所有网络的计算次数，为无引导运行的多少倍。",
    "Stages and sigmas as for Stable Diffusion, until a run tells this model's. Click for the next axis.":
      "运行一次得知该模型的数值之前，阶段和 sigma 按 Stable Diffusion 绘制。点击切换到下一种横轴。",
    "Noisy to clean. Click for the next axis: percent, sigma, log SNR.":
      "从高噪声到低噪声。点击切换到下一种横轴：percent、sigma、log SNR。",
    "coarse": "轮廓",
    "content": "内容",
    "clean-up": "收尾",
    "strength": "强度",
    "weight": "权重",
    "scale": "系数",
    "autoguidance": "自引导",
    "share of the sampler's cfg": "采样器 cfg 的比例",
    "the sampler's cfg": "采样器的 cfg",
    "last run": "上次运行",
    "schedule of another node: drawn after a run": "调度来自其他节点：运行后绘制",
    "{input} comes from another node: drawn after a run": "{input} 来自其他节点：运行后绘制",
    "in percent, start and end go from 0 to 1": "用 percent 时，起点和终点从 0 到 1",
    "start {start} lies after end {end}": "起点 {start} 在终点 {end} 之后",
    "in sigma, start {start} must be larger than end {end}": "用 sigma 时，起点 {start} 必须大于终点 {end}",
    'points: "{part}" is not position: strength': "控制点：“{part}”不是“位置: 强度”",
    "points: strengths go from -{most} to {most}": "控制点：强度从 -{most} 到 {most}",
    "points: two or more are needed": "控制点：至少需要两个",
    "points: in percent, positions rise from 0 to 1": "控制点：用 percent 时，位置从 0 递增到 1",
    "points: in sigma, positions fall": "控制点：用 sigma 时，位置递减",
    "points: in {unit}, positions go from 0 to {highest}": "控制点：用 {unit} 时，位置从 0 到 {highest}",
    "connect two or more guides": "请连接两个或更多引导网络",
    "the guide's own schedule: drawn after a run": "引导网络自身的调度：运行后绘制",
    "{guides} guides need {edges} edges, not {found}": "{guides} 个引导网络需要 {edges} 个分界点，而不是 {found} 个",
    "edges: numbers above 0 with commas": "分界点：大于 0 的数，用英文逗号分隔",
    "edges: timesteps are whole numbers from 1 to {last}": "分界点：时间步为 1 到 {last} 的整数",
    "edges: from clean to noisy, each once": "分界点：从低噪声到高噪声，每个只写一次",
    "look closer": "细看",
    "Run the workflow first: then two cells can be seen over each other, and the better one kept.":
      "请先运行工作流：之后可以把两格叠在一起看，并保留更好的一格。",
    "Click a cell to see it as A; with Shift, as B. The pointer on the picture divides the two.":
      "点击一格作为 A，按住 Shift 点击作为 B。图上的指针位置把两者分开。",
    "Keep {side}: set the nodes to it": "保留 {side}：把节点设为它",
    "Close": "关闭",
    "The nodes are set: {words}.": "节点已设置：{words}。",
    "{words}: no widget alone sets it. Set it yourself.": "{words}：不是单个控件能设置的，请自己设置。",
    "{words}: its node has gone or changed since the run. Run again.": "{words}：运行之后它的节点已不在或已改变。请再运行一次。",
    "{words}: {node} has no {name} of its own.": "{words}：{node} 没有自己的 {name}。",
    "{words}: {name} of {node} comes by a wire.": "{words}：{node} 的 {name} 来自连线。",
  },
};

let current = "en";

/** Speak the page's language from now on: a code of its setting Comfy.Locale. */
export function speak(code) {
  current = code;
}

/** The code of the language that is spoken. */
export function language() {
  return current;
}

/** An English sentence in the page's language; each {name} in it is replaced by that value. */
export function say(sentence, values = {}) {
  const words = TRANSLATED[current]?.[sentence] ?? sentence;
  return words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
