"""Rows and records that tests of several kinds of formats share."""

MOSS_TURN = {
    'Human': '<|Human|>: a<eoh>\n',
    'Inner Thoughts': '<|Inner Thoughts|>: None<eot>\n',
    'Commands': '<|Commands|>: None<eoc>\n',
    'Tool Responses': '<|Results|>: None<eor>\n',
    'MOSS': '<|MOSS|>: b<eom>\n',
}
KNOWN = {'better': 1, 'safer': 0, 'safe': (True, False)}
FIRST = ([1, 4, 5, 11, 6, 12, 2], [1, 4, 5, 11, 6, 13, 2])  # 'a' → 'b' or 'c'
SECOND = FIRST[::-1]
PAIR = {
    'prompt': 'a',
    'response_0': 'b',
    'response_1': 'c',
    'better_response_id': 1,
    'safer_response_id': 0,
    'is_response_0_safe': True,
    'is_response_1_safe': False,
}
