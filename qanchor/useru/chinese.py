"""UserU in Chinese."""

from qanchor.useru.phrases import Phrases, Topic

CHINESE = Phrases(
    comma="、",
    pause="，",
    semicolon="；",
    conjunction="或",
    periods={1: "一天", 7: "一周", 14: "两周", 28: "一个月", 30: "一个月", 31: "一个月", 90: "三个月"},
    days="{days}天",
    times=("1次", "2次", "{count}次"),
    future=Topic(
        questions=("预测未来用户可能发生的行为。",),
        answers=("{items}。",),
        nothing=("未来{period}没有任何行为。",),
    ),
    focus=Topic(
        questions=(
            "用户在未来{period}会有与{concept}有关的行为吗？",
            "未来{period}，用户会接触多少次{concept}？",
            "预测用户未来{period}在{concept}方面的行为。",
            "接下来的{period}里，用户会对{concept}感兴趣吗？",
            "未来{period}用户有{concept}方面的需求吗，大概什么时候？",
        ),
        answers=("{often}，{onset}：{named}。", "会，{often}，{onset}：{named}。", "{named}；{often}，{onset}。"),
        nothing=(
            "不会，未来{period}没有与{concept}有关的行为{otherwise}。",
            "从未，未来{period}与{concept}无关{otherwise}。",
        ),
    ),
    fact=Topic(
        questions=(
            "{concept}在用户的生活中占多大分量？",
            "用户对{concept}感兴趣吗？",
            "用户多久接触一次{concept}，最近一次是什么时候？",
            "从记录看，用户与{concept}有什么关系？",
            "用户在{concept}方面有哪些习惯？",
        ),
        answers=(
            "{often}，最近一次在{ago}：{named}{when}{amount}{trend}。",
            "{named}：{often}，最近一次在{ago}{trend}{when}{amount}。",
        ),
        nothing=("近{days}天没有与{concept}有关的记录{otherwise}。", "近{days}天看不到{concept}的迹象{otherwise}。"),
    ),
    habits={
        "activity": Topic(
            questions=(
                "用户的活跃程度如何？",
                "用户有多忙，是否越来越活跃？",
                "用户的整体活跃度是高还是低？",
                "用户做的事多不多，多久来一次？",
            ),
            answers=(
                "{often}活跃，{level}；{days}天内有{events}条记录{trend}。",
                "{days}天内有{events}条记录，{level}，{often}活跃{trend}。",
            ),
            nothing=("近{days}天没有任何活动。", "已有{days}天完全不活跃。"),
        ),
        "day": Topic(
            questions=(
                "用户通常在一天的什么时候活跃？",
                "用户是早起型还是夜间型？",
                "用户一天之中的作息是怎样的？",
                "用户在哪个时段出现得最多？",
            ),
            answers=("多在{first}（{share}）{second}{rarely}。", "{share}在{first}{second}{rarely}。"),
            nothing=("没有记录可以说明一天中的时段（{often}）。", "无法判断一天中的时段（{often}）。"),
        ),
        "week": Topic(
            questions=(
                "用户在工作日还是周末更活跃？",
                "用户的一周是怎样度过的？",
                "用户在星期几最忙？",
                "用户的周末与平日有什么不同？",
            ),
            answers=("{week}；{busiest}最忙，{quietest}最闲。", "{busiest}最忙；{week}。"),
            nothing=("活动太少，看不出每天的差别（{often}）。", "看不出一周的规律（{often}）。"),
        ),
        "spending": Topic(
            questions=(
                "用户在{modality}中的{value}有多大？",
                "从{modality}看，用户每次的{value}大约多少？",
                "用户在{modality}方面的{value}是小还是大？",
                "用户在{modality}里的{value}主要用于什么？",
            ),
            answers=(
                "每次约{typical}，最大一笔{largest}，{days}天合计{total}；主要用于{kind}。",
                "主要用于{kind}；每次约{typical}，最大一笔{largest}，{days}天合计{total}。",
            ),
            nothing=("近{days}天{modality}中没有{value}{otherwise}。", "{modality}里没有带{value}的记录{otherwise}。"),
        ),
        "favourites": Topic(
            questions=(
                "用户在{modality}中最常出现的是什么？",
                "用户在{modality}里偏爱什么？",
                "用户的{modality}记录主要由什么组成？",
                "{modality}中哪些内容最能代表用户？",
            ),
            answers=("{texts}（{often}，最近一次在{ago}）。", "首先是{texts}；{often}，最近一次在{ago}。"),
            nothing=("近{days}天{modality}没有记录{otherwise}。", "{modality}记录为空{otherwise}。"),
        ),
        "profile": Topic(
            questions=(
                "从{modality}看，用户是什么样的人？",
                "关于用户的基本情况知道些什么？",
                "根据{modality}描述一下用户。",
                "从{modality}来看，用户属于哪类客户？",
            ),
            answers=("{items}。", "最近的情况：{items}。"),
            nothing=("近{days}天{modality}没有记录{otherwise}。",),
        ),
        "interests": Topic(
            questions=(
                "用户主要对什么感兴趣？",
                "用户最常做哪类事情？",
                "用户的生活主要集中在哪些方面？",
                "描述一下用户的主要兴趣。",
            ),
            answers=("{kinds}。", "首先是{kinds}。"),
            nothing=("近{days}天看不出兴趣。", "记录里看不到任何兴趣。"),
        ),
        "mix": Topic(
            questions=(
                "用户的活动在各类记录中如何分布？",
                "用户主要通过哪些渠道活动？",
                "用户的活动由哪几类记录构成？",
                "用户的行为构成是怎样的？",
            ),
            answers=("{modalities}。", "按条数计：{modalities}。"),
            nothing=("近{days}天没有任何一类活动。", "各类记录均为空。"),
        ),
        "regularity": Topic(
            questions=(
                "用户的活动有多规律？",
                "用户是定期来，还是一阵一阵地来？",
                "用户中间会停多久？",
                "用户的节奏稳定吗？",
            ),
            answers=("{rhythm}，{gap}；共有{active}天活跃。", "{gap}；{rhythm}，共有{active}天活跃。"),
            nothing=("活跃的日子太少，无法判断（{often}）。", "{often}活跃，看不出节奏。"),
        ),
        "newest": Topic(
            questions=(
                "用户最近做了什么？",
                "用户最新的活动是什么？",
                "用户上次出现是什么时候，在做什么？",
                "用户眼下在关心什么？",
            ),
            answers=("{texts}，最近一次在{ago}。", "最近一次在{ago}：{texts}。"),
            nothing=("近{days}天没有出现。", "近{days}天没有新的记录。"),
        ),
        "breadth": Topic(
            questions=(
                "用户做的事情有多丰富？",
                "用户喜欢尝试新事物，还是总做同样的事？",
                "用户做过多少种不同的事情？",
                "用户的行为面是宽还是窄？",
            ),
            answers=(
                "{repeats}：{kinds}类共{distinct}种不同内容，最多的是{kind}。",
                "{kinds}类共{distinct}种不同内容，首先是{kind}；{repeats}。",
            ),
            nothing=("近{days}天什么也没做。", "没有活动，也就谈不上丰富。"),
        ),
        "month": Topic(
            questions=(
                "用户的活动在一个月内如何变化？",
                "用户的行为有发薪日的节奏吗？",
                "用户在每月的什么时候最忙？",
                "用户的活动偏月初还是月末？",
            ),
            answers=(
                "{third}最忙（{share}），尤其是{date}日{money}。",
                "高峰在{date}日；{third}最忙（{share}）{money}。",
            ),
            nothing=("活动太少，看不出每月的规律（{often}）。", "看不出一个月内的规律（{often}）。"),
        ),
        "change": Topic(
            questions=(
                "用户最近的行为有什么变化？",
                "用户比以前多做了什么，少做了什么？",
                "用户的兴趣在转移吗？",
                "用户的行为正朝哪个方向变化？",
            ),
            answers=("近{half}天{change}；总体{trend}。", "{change}（近{half}天）；总体{trend}。"),
            nothing=("用户的行为没有明显变化（{often}）。", "与以前差不多，或数据太少（{often}）。"),
        ),
    },
    often=("从未", "仅一次", "两次", "偶尔几次", "集中在少数几天", "大约每周一次", "每周数次", "几乎每天"),
    otherwise=(
        "，也没有其他活动",
        "，其他活动仅一次",
        "，其他活动两次",
        "，其他活动偶尔几次",
        "，其他活动集中在少数几天",
        "，其他活动大约每周一次",
        "，其他活动每周数次",
        "，其他活动几乎每天",
    ),
    ago=("一天之内", "三天之内", "一周之内", "一至两周前", "两至四周前", "四周以前"),
    onset=("在前期", "在中期", "在后期", "从前期开始", "从中期开始", "到后期才有"),
    trend=("", "全是近期的", "比以前多", "与以前相当", "比以前少"),
    part=("夜里", "上午", "下午", "晚上"),
    week=("几乎只在工作日", "偏工作日", "一周各天均匀", "偏周末", "多在周末"),
    weekday=("周一", "周二", "周三", "周四", "周五", "周六", "周日"),
    third=("上旬", "中旬", "下旬"),
    mostly="多在",
    amount="通常{value}",
    below_zero="负数",
    share=("不到5%", *(f"约{tenth}0%" for tenth in range(1, 10)), "几乎全部"),
    part_of_all="{name}（{share}）",
    level=("一天一件事", "一天两三件事", "一天很多件事", "一天几十件事"),
    gap=("间隔从不超过两天", "间隔从不超过四天", "间隔最长一周", "间隔最长两周", "间隔最长一个月", "间隔超过一个月"),
    rhythm=("每天都有", "隔天一次", "隔几天一次", "大约每周一次", "相隔数周"),
    repeats=("大多是重复的内容", "有重复也有新内容", "几乎总是新内容"),
    named=("{first}", "总是{first}", "主要是{first}，还有{second}", "{first}和{second}", "{first}、{second}等"),
    next="，其次在",
    rarely="很少在",
    money="金额最多在",
    change=("{more}变多", "{less}变少", "{more}变多、{less}变少"),
)
